//! A file system without room for the journal.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;

use oneway_route::{
    Change, Journal, NftSupport, Request, RouteError, Snapshot, StepPoint, apply, no_hook, plan_again,
    recover,
};

use crate::host::{Net, Tun, capture, planned};
use crate::namespace::mount_tmpfs;

crate::trials!(
    a_start_without_room_changes_nothing,
    another_plan_without_room_changes_nothing,
    a_line_without_room_does_not_hide_those_that_follow,
);

/// Makes a file of what is left.
fn fill(dir: &Path) {
    let mut filler = OpenOptions::new().create(true).append(true).open(dir.join("filler")).unwrap();
    for size in [4096, 1] {
        while filler.write_all(&vec![0; size]).is_ok() {}
    }
}

fn is_full(error: &RouteError) -> bool {
    let full = "free space on its file system: every change is written down before it is made";
    matches!(error, RouteError::Journal { source, .. } if source.kind() == ErrorKind::StorageFull)
        && error.to_string().ends_with(full)
}

fn files(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != "filler").collect()
}

fn a_start_without_room_changes_nothing() {
    let net = Net::new();
    net.host.run(|| {
        let before = Snapshot::take().unwrap();
        let plan = planned(&Request::default());
        let dir = net.dir.path();
        let mut failed = 0;
        for pages in 0.. {
            let _mounted = mount_tmpfs(dir, 64);
            let spare = dir.join("spare");
            fs::write(&spare, vec![1; pages * 4096]).unwrap();
            fill(dir);
            fs::remove_file(&spare).unwrap();
            let mut changes = 0;
            let mut count = |point| changes += usize::from(matches!(point, StepPoint::BeforeChange(_)));
            let tun = Tun::open(&plan.tun_name);
            let begun = Journal::create(&net.journal());
            match begun.and_then(|journal| apply(plan.clone(), journal, &mut count)) {
                Err(error) => {
                    assert!(is_full(&error), "{error}");
                    assert_eq!(changes, 0, "with {pages} pages: {error}");
                    assert_eq!(files(dir), [""; 0], "with {pages} pages: {error}");
                    failed += 1;
                }
                Ok(prepared) => {
                    // Nobody takes what was promised.
                    fill(dir);
                    let captured = prepared.verify(&[], &mut no_hook).unwrap().capture(&[], &mut no_hook);
                    captured.unwrap().undo(&mut no_hook).unwrap();
                    assert!(failed > 2, "{failed}");
                    drop(tun);
                    assert_eq!(before.diff(&Snapshot::take().unwrap()), [""; 0]);
                    return;
                }
            }
            drop(tun);
            assert_eq!(before.diff(&Snapshot::take().unwrap()), [""; 0]);
        }
    });
}

/// Neither the new plan nor a new journal has room, and the old ones stay as they are.
fn another_plan_without_room_changes_nothing() {
    let net = Net::new();
    net.host.run(|| {
        let before = Snapshot::take().unwrap();
        let dir = net.dir.path();
        let _mounted = mount_tmpfs(dir, 64);
        let excluding = |count: u8| Request {
            exclude: (0..count).map(|n| format!("203.0.{n}.0/24").parse().unwrap()).collect(),
            ..Request::default()
        };
        let (tun, mut applied) = capture(&planned(&excluding(1)), net.journal());
        fill(dir);
        let (journal, during) = (fs::read(net.journal()).unwrap(), Snapshot::take().unwrap());
        let other = |count, applied: &oneway_route::Applied<_>| {
            let host = Snapshot::take_again(NftSupport::Full).unwrap();
            plan_again(&excluding(count), applied.plan(), &host).unwrap()
        };
        let more = other(200, &applied);
        assert!(is_full(&applied.change_to(more, &mut no_hook).unwrap_err()));
        assert_eq!(during.diff(&Snapshot::take().unwrap()), [""; 0]);
        assert_eq!(fs::read(net.journal()).unwrap(), journal);
        // For this one nothing has to be written down, and the journal of before serves as well.
        let less = other(0, &applied);
        assert!(is_full(&applied.change_to(less, &mut no_hook).unwrap_err()));
        assert_eq!(fs::read(net.journal()).unwrap(), journal);
        assert_eq!(files(dir).len(), 1, "{:?}", files(dir));
        drop((applied, tun));
        assert_eq!(recover(&net.journal()).unwrap().by_tag, 0);
        assert_eq!(before.diff(&Snapshot::take().unwrap()), [""; 0]);
    });
}

/// A file system that cannot promise room tells when a line is written.
fn a_line_without_room_does_not_hide_those_that_follow() {
    let net = Net::new();
    net.host.run(|| {
        let before = Snapshot::take().unwrap();
        let dir = net.dir.path();
        let _mounted = mount_tmpfs(dir, 64);
        let (tun, mut applied) = capture(&planned(&Request::default()), net.journal());
        let exclude = (0..200).map(|n| format!("203.0.{n}.0/24").parse().unwrap()).collect();
        let request = Request { exclude, ..Request::default() };
        let host = Snapshot::take_again(NftSupport::Full).unwrap();
        let plan = plan_again(&request, applied.plan(), &host).unwrap();
        let mut first = true;
        let failed = applied.change_to(plan.clone(), &mut |_| {
            if std::mem::take(&mut first) {
                // What was promised is taken back.
                let file = OpenOptions::new().write(true).open(net.journal()).unwrap();
                file.set_len(file.metadata().unwrap().len()).unwrap();
                fill(dir);
            }
        });
        assert!(is_full(&failed.unwrap_err()));
        fs::remove_file(dir.join("filler")).unwrap();
        let rules = |change: &Change| matches!(change, Change::Rule(_));
        assert!(plan.steps.iter().any(|step| rules(&step.change)));
        // It ends before the journal is written anew.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let steps = plan.steps.len();
            applied.change_to(plan, &mut |point| {
                if matches!(point, StepPoint::AfterChange(n) if n > steps - 10) {
                    std::panic::resume_unwind(Box::new(()));
                }
            })
        }));
        assert!(ended.is_err());
        drop((applied, tun));
        assert_eq!(recover(&net.journal()).unwrap().by_tag, 0, "the journal has them all");
        assert_eq!(before.diff(&Snapshot::take().unwrap()), [""; 0]);
    });
}
