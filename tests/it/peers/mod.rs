//! What one peer can hold or spend, and what the others notice of it.

mod addresses;
mod connections;
mod haproxy;
mod signatures;
