//! roster: who belongs to which organization, and what may they do there?

pub mod auth;
pub mod config;
pub mod domain;
pub mod grpc;
pub mod index;
pub mod lifecycle;
pub mod postgres;
pub mod server;
pub mod service;
pub mod store;
pub mod telemetry;
pub mod world;
