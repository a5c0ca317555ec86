//! Flags over environment over `/etc/upgrade-agent/config.toml`.
