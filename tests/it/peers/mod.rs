//! What one peer can take from the others, over real sockets.

mod addresses;
mod connections;
mod haproxy;
mod memory;
mod messages;
mod observers;
mod oddities;
mod queues;
mod rigs;
mod signatures;
mod silent;
mod sizes;
mod slow_bodies;
mod standard;
mod stop;
mod streams;
mod unread;
