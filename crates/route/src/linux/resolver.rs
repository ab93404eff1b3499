//! `resolv.conf`: what is there, and putting another one in its place.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use oneway_file::limit;
use rustix::fs::{Access, AtFlags, CWD, StatxAttributes, StatxFlags};
use rustix::io::Errno;

use super::{identity, resolved};
use crate::error::RouteError;
use crate::resolver::{Before, Place, ResolvConf, Resolver, is_ours, said, servers};

/// Nobody has more to say, and it has to be kept.
const MOST: u64 = 64 * 1024;

/// The programs that ask systemd-resolved without reading `resolv.conf` (nss-resolve(8)).
const NSSWITCH: &str = "/etc/nsswitch.conf";

/// Its stub listeners (systemd-resolved(8)).
const STUBS: [&str; 2] = ["127.0.0.53", "127.0.0.54"];

fn fail(what: &str, path: &Path) -> impl Fn(io::Error) -> RouteError {
    let what = format!("{what} {}", path.display());
    move |source| RouteError::Resolver { what: what.clone(), source }
}

/// Looks at the settings.
pub(crate) fn resolver(path: &Path, shared: bool) -> Result<Resolver, RouteError> {
    let place = Place { boot: identity::boot()?, netns: identity::netns()? };
    let (before, text, unfit) = match read(path) {
        Ok((before, text)) => (before, text, None),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => (
            Before::Missing,
            // What it says counts although it cannot be kept.
            oneway_file::read(path, limit::SYSTEM)
                .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                .unwrap_or_default(),
            Some(format!("{} is {error}", path.display())),
        ),
        Err(error) => return Err(fail("read", path)(error)),
    };
    let text = if is_ours(&text) { crate::resolver::resolv_conf_before(&text) } else { text };
    let asked = || servers(&text).iter().any(|server| STUBS.contains(server)) || is_asked_by_library();
    let resolved = shared && asked() && resolved::works_here();
    let fixed = match unfit {
        _ if resolved => resolved::refuses_us(),
        Some(unfit) => Some(unfit),
        None if shared && is_elsewheres(path) => Some(
            "it belongs to another network namespace; give this one a file of its own (ip-netns(8))"
                .to_owned(),
        ),
        None => is_fixed(path),
    };
    let everything = if resolved { resolved::links_for_everything()? } else { Vec::new() };
    Ok(Resolver {
        path: path.to_owned(),
        before,
        text,
        resolved,
        everything,
        fixed,
        place,
        upstream: false,
        always: false,
    })
}

/// What is there, and what it says.
fn read(path: &Path) -> io::Result<(Before, String)> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Before::Missing, String::new())),
        Err(error) => return Err(error),
    };
    if meta.is_symlink() {
        let target = fs::read_link(path)?;
        if target.to_str().is_none() {
            return Err(unfit("a link whose name is no text"));
        }
        // Its end may be missing: then nobody is asked.
        return Ok((Before::Link { target }, text(path).unwrap_or_default()));
    }
    if !meta.is_file() {
        return Err(unfit("neither a file nor a link"));
    }
    let text = text(path)?;
    Ok((
        Before::File { text: text.clone(), mode: meta.mode() & 0o7777, uid: meta.uid(), gid: meta.gid() },
        text,
    ))
}

fn unfit(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn text(path: &Path) -> io::Result<String> {
    let bytes = oneway_file::read(path, MOST).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => unfit("too long to be kept"),
        io::ErrorKind::InvalidInput => unfit("neither a file nor a link"),
        _ => error,
    })?;
    String::from_utf8(bytes).map_err(|_| unfit("not text"))
}

/// Whether the C library's `hosts` line names nss-resolve.
fn is_asked_by_library() -> bool {
    let text = oneway_file::read_text(Path::new(NSSWITCH), limit::SYSTEM).unwrap_or_default();
    let mut lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines.any(|line| {
        line.trim_start()
            .strip_prefix("hosts:")
            .is_some_and(|rest| rest.split_whitespace().any(|w| w == "resolve"))
    })
}

/// Whether the file is that of another network namespace: process 1 has the same file and another network.
fn is_elsewheres(path: &Path) -> bool {
    let same = |a: &Path, b: &Path, follow: bool| -> Option<bool> {
        let look = |path: &Path| if follow { fs::metadata(path) } else { fs::symlink_metadata(path) };
        let (a, b) = (look(a).ok()?, look(b).ok()?);
        Some((a.dev(), a.ino()) == (b.dev(), b.ino()))
    };
    if identity::is_netns_of(1) {
        return false;
    }
    let of_first = |path: &Path| {
        let mut of_first = OsString::from("/proc/1/root");
        of_first.push(path.as_os_str());
        PathBuf::from(of_first)
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    same(path, &of_first(path), false)
        .or_else(|| same(folder, &of_first(folder), true))
        // Where process 1 cannot be looked at, a file that is laid over another one belongs to whoever did that.
        .unwrap_or_else(|| !attributes(path).is_some_and(|has| has.contains(StatxAttributes::MOUNT_ROOT)))
}

fn attributes(path: &Path) -> Option<StatxAttributes> {
    let found = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS).ok()?;
    Some(found.stx_attributes)
}

/// What keeps us from changing it.
fn is_fixed(path: &Path) -> Option<String> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let has = attributes(path).unwrap_or(StatxAttributes::empty());
    for (fixed, what) in [(StatxAttributes::IMMUTABLE, "immutable"), (StatxAttributes::APPEND, "append-only")]
    {
        let flag = if what == "immutable" { "i" } else { "a" };
        for at in [path, folder] {
            if attributes(at).is_some_and(|has| has.contains(fixed)) {
                return Some(format!("{} is {what}; clear that with `chattr -{flag} {0}`", at.display()));
            }
        }
    }
    let target = if has.contains(StatxAttributes::MOUNT_ROOT) { path } else { folder };
    match rustix::fs::accessat(CWD, target, Access::WRITE_OK, AtFlags::EACCESS) {
        Ok(()) => None,
        Err(error) => Some(format!("{} cannot be written: {error}", target.display())),
    }
}

/// Puts ours in its place. What is not what was planned for is left: the next look takes it over.
pub(super) fn make(file: &ResolvConf) -> Result<(), RouteError> {
    let fail = fail("write", &file.path);
    let (now, text) = read(&file.path).map_err(&fail)?;
    let is_there = matches!(now, Before::File { .. }) && text == file.text();
    if is_there || now != file.before && !file.is(&text) {
        return Ok(());
    }
    let (mode, owner) = match &file.before {
        Before::File { mode, uid, gid, .. } => (*mode, Some((*uid, *gid))),
        _ => (0o644, None),
    };
    put(&file.path, &file.text(), mode, owner).map_err(&fail)
}

/// Brings back what was there, if what is there is ours.
pub(super) fn unmake(file: &ResolvConf) -> Result<bool, RouteError> {
    let fail = fail("restore", &file.path);
    remove_halves(&file.path);
    let (now, text) = match read(&file.path) {
        // It is none of ours.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(false),
        found => found.map_err(&fail)?,
    };
    if now == file.before {
        return Ok(false);
    }
    if !matches!(now, Before::File { .. }) || !file.is(&text) {
        tracing::warn!(
            "{} is not ours any more: {}; it is left as it is",
            file.path.display(),
            by(&now, &text)
        );
        return Ok(false);
    }
    restore(&file.path, &file.before).map_err(&fail)?;
    Ok(true)
}

/// Undoes what a file of ours says of itself, where that is about this host: the journal may be gone, with the boot that it
/// was of.
pub(super) fn unmake_tagged(path: &Path) -> Result<bool, RouteError> {
    let Ok((Before::File { .. }, text)) = read(path) else { return Ok(false) };
    let Some(said) = said(&text) else { return Ok(false) };
    let here = Place { boot: identity::boot()?, netns: identity::netns()? };
    let is_here = if said.place.boot == here.boot { said.place == here } else { !is_elsewheres(path) };
    if !is_here {
        return Ok(false);
    }
    remove_halves(path);
    restore(path, &said.before).map_err(fail("restore", path))?;
    Ok(true)
}

/// Whether it is not there as it is to be.
pub(super) fn lacks(file: &ResolvConf) -> bool {
    !matches!(read(&file.path), Ok((Before::File { .. }, text)) if text == file.text())
}

/// Ours for what others have put there, and who they are in their own words; none if what is there is ours.
pub(crate) fn resolv_conf_now(file: &ResolvConf) -> Result<Option<(ResolvConf, String)>, RouteError> {
    let (now, text) = read(&file.path).map_err(fail("read", &file.path))?;
    if matches!(now, Before::File { .. }) && file.is(&text) {
        return Ok(None);
    }
    let by = by(&now, &text);
    let theirs = Resolver {
        path: file.path.clone(),
        before: now,
        text,
        resolved: false,
        everything: Vec::new(),
        fixed: None,
        place: file.place.clone(),
        upstream: true,
        always: false,
    };
    Ok(Some((theirs.file(file.nameserver, file.closed), by)))
}

/// What tells who has written it: most programs say so in a comment at its head.
fn by(now: &Before, text: &str) -> String {
    let comment = text.lines().find_map(|line| line.strip_prefix(['#', ';']));
    let comment: String =
        comment.unwrap_or_default().trim().chars().filter(|c| !c.is_control()).take(80).collect();
    match now {
        Before::Missing => "nothing".to_owned(),
        Before::Link { target } => format!("a link to {}", target.display()),
        Before::File { uid, .. } if comment.is_empty() => format!("a file of user {uid}"),
        Before::File { .. } => format!("a file that says {comment:?}"),
    }
}

fn restore(path: &Path, before: &Before) -> io::Result<()> {
    match before {
        Before::Missing => fs::remove_file(path)?,
        Before::Link { target } => {
            remove_halves(path);
            let beside = beside(path);
            std::os::unix::fs::symlink(target, &beside)?;
            fs::rename(&beside, path).inspect_err(|_| remove_halves(path))?;
        }
        Before::File { text, mode, uid, gid } => return put(path, text, *mode, Some((*uid, *gid))),
    }
    sync(path)
}

/// Replaces it in one instant; where it is mounted, it is written over.
fn put(path: &Path, text: &str, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    remove_halves(path);
    let beside = beside(path);
    let written = write_beside(&beside, text, mode, owner).and_then(|()| fs::rename(&beside, path));
    let Err(error) = written else { return sync(path) };
    remove_halves(path);
    // Docker and `ip netns exec` mount a file there. The folder may be one that nothing can be written to.
    let is_mounted = attributes(path).is_some_and(|has| has.contains(StatxAttributes::MOUNT_ROOT));
    if !is_mounted && error.raw_os_error() != Some(Errno::BUSY.raw_os_error()) {
        return Err(error);
    }
    let file = OpenOptions::new().write(true).custom_flags(libc::O_NOFOLLOW).open(path)?;
    // Not cut first: whoever reads it meanwhile, and whoever finds it after a crash, finds servers.
    file.write_all_at(text.as_bytes(), 0)?;
    file.set_len(text.len() as u64)?;
    file.sync_all()
}

fn write_beside(beside: &Path, text: &str, mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(beside)?;
    file.write_all(text.as_bytes())?;
    if let Some((uid, gid)) = owner
        && file.metadata().is_ok_and(|is| (is.uid(), is.gid()) != (uid, gid))
    {
        std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
    }
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.sync_all()
}

/// Where it is written before it is moved: one name, so that what a crash leaves there is found.
fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".oneway");
    path.with_file_name(name)
}

/// What a crash in the midst of [`put`] may have left. Mostly there is nothing.
fn remove_halves(path: &Path) {
    let _ = fs::remove_file(beside(path));
}

fn sync(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new("/")))?.sync_all()
}
