"""Who may do what over the network: callers, what they ask for, and what they may have of it.

``action`` names what can be asked for; ``request`` and ``signatures`` prove who asks, ``nonces`` that it is asked once;
``standing`` knows whose a key is, ``gate`` decides. ``capability`` is what visitors come with, ``wanted`` what intents
come to, ``visiting`` what is done with visitors, ``records`` and ``visits`` what is kept of them. ``opening`` puts it
together for an open home. Only ``nonces``, ``standing``, ``visits`` and ``opening`` touch a store.
"""
