use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::*;

fn paths() -> (tempfile::TempDir, StatePaths) {
    let folder = tempfile::tempdir().unwrap();
    let paths = StatePaths::in_folder(folder.path(), "oneway");
    (folder, paths)
}

#[test]
fn the_second_is_refused_and_the_first_undisturbed() {
    let (_folder, paths) = paths();
    let first = InstanceLock::acquire(&paths).unwrap();
    let inode = fs::metadata(&paths.lock).unwrap().ino();
    for _ in 0..2 {
        let second = InstanceLock::acquire(&paths).unwrap_err();
        let pid = std::process::id();
        assert_eq!(
            second.to_string(),
            format!("oneway is already running here (pid {pid}); stop it with `oneway stop`")
        );
    }
    assert_eq!(InstanceLock::held_by(&paths).unwrap(), Some(Some(std::process::id())));
    assert_eq!(fs::metadata(&paths.lock).unwrap().ino(), inode);
    assert_eq!(fs::read_to_string(&paths.lock).unwrap(), format!("{}\n", std::process::id()));
    assert_eq!(first.path(), paths.lock);
}

#[test]
fn whoever_looks_is_in_nobodys_way() {
    let (_folder, paths) = paths();
    let (stop, looks) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    InstanceLock::held_by(&paths).unwrap();
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let taken = (0..200).try_for_each(|_| InstanceLock::acquire(&paths)?.release());
        stop.store(true, Ordering::Relaxed);
        taken.unwrap();
    });
    assert!(looks.load(Ordering::Relaxed) > 0);
}

#[test]
fn a_release_leaves_nothing() {
    let (_folder, paths) = paths();
    assert_eq!(InstanceLock::held_by(&paths).unwrap(), None);
    InstanceLock::acquire(&paths).unwrap().release().unwrap();
    assert!(!paths.lock.exists());
    InstanceLock::acquire(&paths).unwrap().release().unwrap();
}

#[test]
fn a_file_left_behind_is_no_obstacle() {
    let (_folder, paths) = paths();
    // As after SIGKILL: the file is there, with a longer text, but nobody holds it.
    fs::write(&paths.lock, "4194304 and more\n").unwrap();
    assert_eq!(InstanceLock::held_by(&paths).unwrap(), None);
    let lock = InstanceLock::acquire(&paths).unwrap();
    assert_eq!(fs::read_to_string(&paths.lock).unwrap(), format!("{}\n", std::process::id()));
    drop(lock);
    assert!(!paths.lock.exists());
}

#[test]
fn a_file_that_is_not_ours_stays() {
    let (_folder, paths) = paths();
    let lock = InstanceLock::acquire(&paths).unwrap();
    fs::remove_file(&paths.lock).unwrap();
    let other = InstanceLock::acquire(&paths).unwrap();
    lock.release().unwrap();
    assert!(paths.lock.exists());
    drop(other);
}

#[test]
fn only_this_user_may_open_it() {
    let (_folder, paths) = paths();
    let _lock = InstanceLock::acquire(&paths).unwrap();
    assert_eq!(fs::metadata(&paths.lock).unwrap().mode() & 0o7777, 0o600);
}

#[test]
fn a_link_is_not_followed() {
    let (folder, paths) = paths();
    let precious = folder.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    symlink(&precious, &paths.lock).unwrap();
    assert!(matches!(InstanceLock::acquire(&paths), Err(StateError::Lock { .. })));
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
}

#[test]
fn one_of_many_at_once_wins() {
    let (_folder, paths) = paths();
    let barrier = std::sync::Barrier::new(8);
    let (paths, barrier) = (&paths, &barrier);
    for _ in 0..50 {
        let held: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        InstanceLock::acquire(paths).ok()
                    })
                })
                .collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(held.len(), 1);
        held.into_iter().for_each(|lock| lock.release().unwrap());
    }
}
