/* A library to preload that makes a medium fail, or forget, on command.
 *
 * FAULTIO_ROOT names a directory: only files below it are touched. FAULTIO_CONTROL names a file that is mapped into
 * every process; the test writes its orders there while they run. FAULTIO_SHADOW, when set, names a directory that
 * receives what a power cut would leave: the bytes of each file when its last fsync began, by inode, and the names in
 * each directory when its last fsync began. conftest.py beside this file is the other side.
 *
 * Calls are counted in classes: writing bytes, flushing, and changing names (creating, renaming, removing). From the
 * call number `first` on, `times` calls of the classes in `mask` fail with `error`; error 0 kills the process instead,
 * before the call takes effect. With `halfway` a write of several bytes writes half of them first, as a full disk does.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

enum { WRITE = 1, FLUSH = 2, NAME = 4 };

struct control {
    uint64_t calls;   /* of the classes in mask, since mask was set */
    uint64_t first;   /* the number of the first call to fail, from 1; 0: none */
    uint64_t times;   /* how many fail */
    uint64_t failed;  /* how many did */
    uint32_t mask;
    uint32_t error;
    uint32_t halfway;
    uint32_t reserved;
};

static struct control *control;
static const char *root, *shadow;
static size_t root_length;

#define REAL(name) static __typeof__(&name) real; if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

/* A copy: a server writes its title over where its environment was. */
static const char *own(const char *name) {
    const char *value = getenv(name);
    return value ? strdup(value) : NULL;
}

__attribute__((constructor)) static void begin(void) {
    root = own("FAULTIO_ROOT");
    shadow = own("FAULTIO_SHADOW");
    const char *path = getenv("FAULTIO_CONTROL");
    if (!root || !path) return;
    root_length = strlen(root);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0) return;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (mapped != MAP_FAILED) control = mapped;
}

static int below(const char *path) {
    return control && path && strncmp(path, root, root_length) == 0;
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return 1;
}

static int watched(int fd) {
    char path[PATH_MAX];
    return control && path_of(fd, path) && below(path);
}

/* Whether this call is to fail. Sets errno. */
static int fails(uint32_t kind) {
    if (!(control->mask & kind)) return 0;
    uint64_t number = __atomic_add_fetch(&control->calls, 1, __ATOMIC_SEQ_CST);
    uint64_t first = control->first;
    if (!first || number < first || number - first >= control->times) return 0;
    __atomic_add_fetch(&control->failed, 1, __ATOMIC_SEQ_CST);
    if (!control->error) kill(getpid(), SIGKILL);
    errno = (int)control->error;
    return 1;
}

/* --- what a power cut would leave --- */

static int copy(int from, const char *to) {
    char buffer[1 << 16];
    int out = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (out < 0) return 0;
    REAL(write);
    off_t at = 0;
    ssize_t got;
    while ((got = pread(from, buffer, sizeof buffer, at)) > 0) {
        if (real(out, buffer, (size_t)got) != got) break;
        at += got;
    }
    close(out);
    return got == 0;
}

/* One at a time, from the snapshot to its publication: an earlier one must not take the place of a newer one. */
static int one_at_a_time(void) {
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/lock", shadow);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0) flock(fd, LOCK_EX);
    return fd;
}

struct snapshot {
    char draft[PATH_MAX + 16], place[PATH_MAX]; /* the bytes of a file, and where they go */
    char *names;                                /* lines for the journal of names */
};

static void take_file(int fd, unsigned long long inode, const char *path, struct snapshot *taken) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int reading = open(link, O_RDONLY | O_CLOEXEC); /* fd itself may be for writing only */
    if (reading < 0) return;
    snprintf(taken->place, sizeof taken->place, "%s/%llu", shadow, inode);
    snprintf(taken->draft, sizeof taken->draft, "%s.%d", taken->place, (int)getpid());
    int complete = copy(reading, taken->draft);
    close(reading);
    /* Flushing a new file makes its name durable too, on the file systems that are used. */
    if (complete && asprintf(&taken->names, "+ %llu %s\n", inode, path) < 0) taken->names = NULL;
}

static void take_directory(const char *path, struct snapshot *taken) {
    size_t size;
    FILE *names = open_memstream(&taken->names, &size);
    DIR *directory = opendir(path);
    if (names && directory) {
        fprintf(names, "= 0 %s\n", path);
        for (struct dirent *entry; (entry = readdir(directory));)
            if (entry->d_type == DT_REG)
                fprintf(names, "+ %llu %s/%s\n", (unsigned long long)entry->d_ino, path, entry->d_name);
    }
    if (directory) closedir(directory);
    if (names) fclose(names);
}

static void publish(const struct snapshot *taken) {
    char path[PATH_MAX];
    if (!taken->names || (taken->place[0] && rename(taken->draft, taken->place))) return;
    snprintf(path, sizeof path, "%s/names", shadow);
    FILE *names = fopen(path, "ae");
    if (!names) return;
    fputs(taken->names, names);
    fclose(names);
}

/* Flush, and keep what is durable then: what was there when the flush began. What others write until it returns may be
 * durable or not, and does not count as it. */
static int flush(int fd, int (*real)(int)) {
    struct stat found;
    char path[PATH_MAX];
    if (!control || !shadow || fstat(fd, &found) || !path_of(fd, path) || !below(path)) return real(fd);
    struct snapshot taken = {"", "", NULL};
    int lock = one_at_a_time();
    if (S_ISREG(found.st_mode)) take_file(fd, (unsigned long long)found.st_ino, path, &taken);
    if (S_ISDIR(found.st_mode)) take_directory(path, &taken);
    int done = real(fd);
    if (!done) publish(&taken);
    free(taken.names);
    if (lock >= 0) close(lock);
    return done;
}

/* --- the calls --- */

ssize_t write(int fd, const void *data, size_t size) {
    REAL(write);
    if (watched(fd) && fails(WRITE)) {
        if (control->halfway && size > 1) return real(fd, data, size / 2);
        return -1;
    }
    return real(fd, data, size);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    REAL(pwrite);
    if (watched(fd) && fails(WRITE)) {
        if (control->halfway && size > 1) return real(fd, data, size / 2, at);
        return -1;
    }
    return real(fd, data, size, at);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    REAL(pwrite64);
    if (watched(fd) && fails(WRITE)) {
        if (control->halfway && size > 1) return real(fd, data, size / 2, at);
        return -1;
    }
    return real(fd, data, size, at);
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(writev);
    return watched(fd) && fails(WRITE) ? -1 : real(fd, parts, count);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    REAL(pwritev);
    return watched(fd) && fails(WRITE) ? -1 : real(fd, parts, count, at);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
    REAL(pwritev64);
    return watched(fd) && fails(WRITE) ? -1 : real(fd, parts, count, at);
}

int ftruncate(int fd, off_t size) {
    REAL(ftruncate);
    return watched(fd) && fails(WRITE) ? -1 : real(fd, size);
}

int ftruncate64(int fd, off64_t size) {
    REAL(ftruncate64);
    return watched(fd) && fails(WRITE) ? -1 : real(fd, size);
}

int posix_fallocate(int fd, off_t at, off_t size) {
    REAL(posix_fallocate);
    return watched(fd) && fails(WRITE) ? errno : real(fd, at, size);
}

int posix_fallocate64(int fd, off64_t at, off64_t size) {
    REAL(posix_fallocate64);
    return watched(fd) && fails(WRITE) ? errno : real(fd, at, size);
}

int fsync(int fd) {
    REAL(fsync);
    return watched(fd) && fails(FLUSH) ? -1 : flush(fd, real);
}

int fdatasync(int fd) {
    REAL(fdatasync);
    return watched(fd) && fails(FLUSH) ? -1 : flush(fd, real);
}

static int creates(const char *path, int flags) {
    return below(path) && (flags & (O_CREAT | O_WRONLY | O_RDWR)) && fails(NAME);
}

#define OPEN(name)                                       \
    int name(const char *path, int flags, ...) {         \
        REAL(name);                                      \
        mode_t mode = 0;                                 \
        if (flags & (O_CREAT | O_TMPFILE)) {             \
            va_list rest;                                \
            va_start(rest, flags);                       \
            mode = va_arg(rest, mode_t);                 \
            va_end(rest);                                \
        }                                                \
        return creates(path, flags) ? -1 : real(path, flags, mode); \
    }

OPEN(open)
OPEN(open64)

int rename(const char *from, const char *to) {
    REAL(rename);
    return below(to) && fails(NAME) ? -1 : real(from, to);
}

int unlink(const char *path) {
    REAL(unlink);
    return below(path) && fails(NAME) ? -1 : real(path);
}
