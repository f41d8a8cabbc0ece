//! What one peer can take from the others, over real sockets.

mod addresses;
mod age;
pub mod connections;
pub mod haproxy;
mod memory;
mod messages;
pub mod observers;
mod oddities;
mod other_protocols;
mod queues;
pub mod rigs;
mod signatures;
mod silent;
mod sizes;
mod slow_bodies;
mod standard;
mod stop;
mod stream_share;
mod streams;
mod timeouts;
mod unread;
