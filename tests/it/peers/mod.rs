//! What one peer can take from the others, over real sockets.

mod rigs;
mod silent;
mod slow_bodies;
mod stop;
mod unread;
