//! Everything at once that takes memory, from seven addresses: a run that tries to pass the stated bound.

use super::client::Calls;
use super::{Tally, Target, data, silent, standard, streams};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

const BATCH_ADD: &str = "/roster.v1.OrganizationService/BatchAddMembers";
/// A message just below the limit of the methods with lists.
const ENDLESS: u32 = 1024 * 1024;

pub(super) fn everything(target: &Target, tally: &Arc<Tally>) {
    for number in 2..=8 {
        let target = Target { local: IpAddr::V4(Ipv4Addr::new(127, 0, 0, number)), ..target.clone() };
        let body = [&[0], &ENDLESS.to_be_bytes()[..], &vec![0; usize::try_from(ENDLESS).unwrap() - 1]].concat();
        let bodies = Calls { ends: false, connections: 2, ..Calls::new(BATCH_ADD, &target.manage_key, body) };
        bodies.start(&target, tally);
        standard::endless(&target, tally);
        data::unread_0(&target, tally);
        data::unread_socket(&target, tally);
        streams::checks(&target, tally);
        streams::exports(&target, tally);
        silent::large_blocks(&target, tally);
    }
}
