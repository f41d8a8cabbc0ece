//! What a backend needs to ask roster.
