"""What a store keeps of databases: tables that can be made anew from the feeds, and how they are kept up to date."""
