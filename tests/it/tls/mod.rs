//! TLS on the listener, client certificates as credentials, and unix sockets.

mod calls;
