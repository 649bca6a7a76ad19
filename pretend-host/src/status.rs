//! What a host function returns.

/// The results of host functions, as the ABI numbers them.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub enum Status {
    /// It was done.
    Ok = 0,
    /// There is no such thing.
    NotFound = 1,
    /// The host does not accept this.
    BadArgument = 2,
    /// The value can't be handed over.
    SerializationFailure = 3,
    /// Bytes that are not in the module's memory.
    InvalidMemoryAccess = 6,
    /// Somebody else has written this shared value.
    CasMismatch = 8,
    /// The host can't do this now.
    InternalFailure = 10,
}
