//! No single peer can take the service away from the others.

mod queues;
mod sizes;
