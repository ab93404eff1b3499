use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::os::{check_private, is_private, is_what_its_name_says, prepare_private};
use super::*;

fn uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

#[test]
fn the_files_of_an_instance_lie_side_by_side() {
    let paths = StatePaths::in_folder(Path::new("/run"), "oneway-7");
    assert_eq!(paths.control, Path::new("/run/oneway-7.sock"));
    assert_eq!(paths.journal, Path::new("/run/oneway-7.journal"));
    assert_eq!(paths.lock, Path::new("/run/oneway-7.lock"));
}

#[test]
fn another_socket_leaves_lock_and_journal() {
    let paths = StatePaths::in_folder(Path::new("/run"), "oneway");
    let moved = paths.clone().with_control(Some("/srv/control".into()));
    assert_eq!(moved.control, Path::new("/srv/control"));
    assert_eq!((&moved.journal, &moved.lock), (&paths.journal, &paths.lock));
    assert_eq!(paths.clone().with_control(None), paths);
}

#[test]
fn the_callers_own_socket_comes_first() {
    let paths = StatePaths::here().unwrap();
    let candidates = paths.control_candidates();
    assert_eq!(candidates[0], paths.control);
    let distinct: std::collections::BTreeSet<_> = candidates.iter().collect();
    assert_eq!(distinct.len(), candidates.len(), "{candidates:?}");
}

#[test]
fn a_private_folder_is_made_once() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("oneway");
    prepare_private(&folder, uid()).unwrap();
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o7777, 0o700);
    prepare_private(&folder, uid()).unwrap();
}

#[test]
fn a_folder_that_others_can_write_is_refused() {
    let parent = tempfile::tempdir().unwrap();
    let open = parent.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let safe = parent.path().join("safe");
    prepare_private(&safe, uid()).unwrap();
    let link = parent.path().join("link");
    symlink(&safe, &link).unwrap();
    let file = parent.path().join("file");
    fs::write(&file, "").unwrap();
    check_private(&parent.path().join("nowhere"), uid()).unwrap();
    check_private(&safe, uid()).unwrap();
    for (path, uid, why) in [
        (&open, uid(), "its mode is not 0700"),
        (&link, uid(), "it is no folder"),
        (&file, uid(), "it is no folder"),
        (&safe, uid() + 1, "it belongs to another user"),
    ] {
        let unsafe_because =
            format!("the folder {path:?} is not safe: {why}; remove it or set XDG_RUNTIME_DIR");
        assert_eq!(prepare_private(path, uid).unwrap_err().to_string(), unsafe_because);
        assert_eq!(check_private(path, uid).unwrap_err().to_string(), unsafe_because);
    }
    let whose = |path, uid| is_private(&fs::metadata(path).unwrap(), uid);
    assert!(whose(&safe, uid()) && !whose(&safe, uid() + 1) && !whose(&open, uid()) && !whose(&file, uid()));
}

#[test]
fn a_folder_is_believed_if_it_is_the_users_whom_it_is_named_for() {
    let parent = tempfile::tempdir().unwrap();
    let folder = |uid: u32, mode| {
        let folder = parent.path().join(format!("oneway-{uid}"));
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
        folder
    };
    let (own, others) = (folder(uid(), 0o700), folder(uid() + 1, 0o700));
    let link = parent.path().join(format!("oneway-0{}", uid()));
    symlink(&own, &link).unwrap();
    assert!(is_what_its_name_says(&own));
    assert!(!is_what_its_name_says(&others));
    assert!(!is_what_its_name_says(&link));
    assert!(!is_what_its_name_says(parent.path()));
    fs::set_permissions(&own, fs::Permissions::from_mode(0o777)).unwrap();
    assert!(!is_what_its_name_says(&own));
}
