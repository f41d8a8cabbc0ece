//! Checks of permissions from the replica: what a member holds by a built-in role, by a role of the deployment and by a role
//! of the organization. Each is compared with a check of the membership alone, in the same round.

use crate::echo::{format_figures, medians};
use crate::tool::print_line;
use crate::tool::questions::Kind;
use crate::tool::report::{Row, row};
use crate::tool::server::measure;
use crate::tool::stage::{Stage, rounds};
use crate::tool::table::{DEPLOYMENT_MEMBER, ORGANIZATION_MEMBER, PERMISSION};

/// The number of memberships, and of organizations with a role of their own.
const SIZE: (u32, u32) = (500_000, 50_000);

pub(crate) async fn rows() -> Vec<Row> {
    let (memberships, organizations) = SIZE;
    let stage = Stage::new(memberships, organizations).await;
    let server = stage.start();
    server.until_loaded(stage.size).await;
    let token = stage.token("roster:check");
    let permission =
        |permission: &str, member| Kind::Permission { permission: permission.to_owned(), member, organizations };
    let kinds = [
        ("the membership alone", Kind::Check { fully_consistent: false }),
        ("roster's permission by a built-in role", permission("members.list", 1)),
        ("a permission of the application by a role of the deployment", permission(PERMISSION, DEPLOYMENT_MEMBER)),
        ("a permission of the application by a role of the organization", permission(PERMISSION, ORGANIZATION_MEMBER)),
    ];
    let mut figures = kinds.each_ref().map(|_| Vec::new());
    for _ in 0..rounds() {
        for ((_, kind), figures) in kinds.iter().zip(&mut figures) {
            figures.push(measure(&server.process, &stage.load(&server.address, &token, kind.clone())));
        }
        print_line(&format!("{:.2?} µs", figures.each_ref().map(|figures| figures[figures.len() - 1].cpu)));
    }
    let figures = figures.map(|figures| medians(&figures));
    let membership = &figures[0];
    let rows = kinds.iter().zip(&figures).skip(1).map(|((name, _), check)| {
        row(
            &format!("CheckMembership of {name}: CPU per call, the membership's by this"),
            format_figures(check),
            format!("the membership alone: {}", format_figures(membership)),
            Some(membership.cpu / check.cpu),
            "≥ 0.9",
        )
    });
    rows.collect()
}
