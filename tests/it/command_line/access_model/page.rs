//! The commands of roster in `docs/roles.md`, as they are pasted into a shell. `interop/walk.sh` runs those of grpcurl too.

use super::super::{DataDirectory, Dev};
use nix::sys::signal::Signal;
use std::process::Stdio;
use tokio::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The lines of the blocks of `sh` that call roster, or set a variable for it.
fn commands(page: &str) -> Vec<&str> {
    let mut blocks = page.split("\n```sh\n");
    let first = blocks.next().unwrap_or_default();
    let mut before = first.lines().last().unwrap_or_default();
    let mut commands = Vec::new();
    for block in blocks {
        let (block, rest) = block.split_once("\n```").expect("a fence is not closed");
        let is_own = |line: &&str| line.contains("target/debug/roster") || line.starts_with("CREDENTIAL=");
        commands.extend(block.lines().filter(is_own).filter(|_| !before.starts_with("<!--")));
        before = rest.lines().last().unwrap_or_default();
    }
    commands
}

#[tokio::test]
async fn the_commands_of_the_page_run() {
    let page = std::fs::read_to_string(format!("{ROOT}/docs/roles.md")).unwrap();
    let commands = commands(&page);
    assert!(commands.len() > 10, "{commands:?}");
    let directory = DataDirectory::new();
    let dev = Dev::start(&directory.0).await;
    let (program, data) = (env!("CARGO_BIN_EXE_roster"), directory.0.to_str().unwrap());
    let script = commands
        .join("\n")
        .replace("target/debug/roster access-model", &format!("'{program}' access-model"))
        .replace("target/debug/roster token", &format!("'{program}' token --data-dir {data}"))
        .replace("$(mktemp)", &format!("{data}/credential"))
        .replace("127.0.0.1:50051", &dev.address);
    let mut shell = Command::new("bash");
    shell.args(["-euxo", "pipefail", "-c", &script]).current_dir(ROOT).stdin(Stdio::null());
    let ended = shell.output().await.unwrap();
    let [stdout, stderr] = [ended.stdout, ended.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    assert!(ended.status.success(), "{stdout}\n{stderr}");
    for part in [
        "the exit code is 3\n",
        "+ name = \"billing.refund\"\n",
        "+ name = \"billing.export\"\n",
        "- name = \"billing.export\"\n",
        "- name = \"seller\"\n",
    ] {
        assert!(stdout.contains(part), "no {part} in {stdout}");
    }
    assert!(stderr.contains("The access model has the revision 4."), "{stderr}");
    assert_eq!(dev.signal(Signal::SIGTERM).await, Some(0));
}
