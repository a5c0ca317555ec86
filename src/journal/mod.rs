//! The durable truth of one upgrade: append with fsync, replay, receipts.
