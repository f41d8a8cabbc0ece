//! Faults of the datastore and of the network in front of it: the contract holds under each of them.

mod rigs;
