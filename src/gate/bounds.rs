//! How much the tables of one worker may hold.

/// What a gate's tables hold at most; each of them has its own rule for when it is full.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Bounds {
    /// Keys whose use is gathered before it is told.
    pub batches: usize,
    /// Memory for them, keys included.
    pub batch_bytes: usize,
    /// Decisions remembered.
    pub answers: usize,
    /// Memory for them, keys included.
    pub answer_bytes: usize,
    /// Keys that leases are known for.
    pub leases: usize,
    /// Memory for them, keys included.
    pub lease_bytes: usize,
    /// Slots of the local limits, in what the workers share: equal in all of them.
    pub local_slots: usize,
    /// Pieces of route metadata whose meaning is remembered. They are the operator's, one for each
    /// route that has some; a table with more routes than this reads the rest anew each time.
    pub metadata: usize,
    /// Streams that wait for one call: another call is made for the next one.
    pub waiters: usize,
}

impl Bounds {
    /// The bounds that workers have. (Simulations have smaller ones, so that tables fill.)
    pub const WORKER: Self = Self {
        batches: 4096,
        batch_bytes: 4 * 1024 * 1024,
        answers: 10_000,
        answer_bytes: 4 * 1024 * 1024,
        leases: 10_000,
        lease_bytes: 4 * 1024 * 1024,
        local_slots: 1024,
        metadata: 1024,
        // More of one key at once than any proxy worker serves.
        waiters: 4096,
    };
}
