//! What one peer can take from the others: places, memory, time and connections.

mod memory;
mod oddities;
