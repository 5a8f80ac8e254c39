//! What the handler of the bus is called for.

/// What happened between the loops of the process: [`Server::on_bus`](crate::Server::on_bus).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BusEvent {
    /// Another loop had messages for this one, and could not queue them because this loop was too
    /// far behind. The event comes at their place: what that loop sent before is handled, what it
    /// sends later is not.
    #[non_exhaustive]
    Gap {
        /// The index of the loop that sent them.
        from: usize,
        /// The number of messages, events and closes that are missing.
        lost: u64,
    },
}
