//! What one peer can take from the others, over real sockets.

mod observers;
mod rigs;
mod silent;
mod slow_bodies;
mod standard;
mod stop;
mod streams;
mod unread;
