//! What one peer can take from the others, over real sockets.

mod observers;
mod standard;
