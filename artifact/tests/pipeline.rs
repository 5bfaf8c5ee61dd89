//! The whole pipeline against a real registry: what is taken, what is refused and why, and what the cache saves.
