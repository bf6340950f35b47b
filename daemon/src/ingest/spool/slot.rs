//! The spool's folder: one numbered slot for each process that shares it, locked while it lives.
//!
//! In: `SPOOL_DIR`. Out: the first slot that nobody holds, with what a former process left there:
//! its identity (so that a restarted daemon takes up its own rooms at once), its segments and its
//! mark. A lock ends with its process, however that ends. Slots of processes that are gone for
//! [`ABANDONED`] are found by [`Slot::abandoned`], for somebody else to publish.
//!
//! ```text
//! SPOOL_DIR/0/lock      held while the process lives
//!            /owner     uuid of the process, kept over restarts
//!            /mark      all records before this position are published (with a checksum; lazily)
//!            /00000000000000000000.log   a segment, named by the position of its first record
//!            /orphans/7301234567890123456   records of a room that somebody else has taken
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use uuid::Uuid;

/// More processes than this on one folder are a mistake.
const SLOTS: u32 = 64;
/// A process that was ended may be restarted, and then wants its own slot back.
const ABANDONED: Duration = Duration::from_mins(1);

/// A slot that is ours.
#[derive(Debug)]
pub(super) struct Slot {
    root: PathBuf,
    number: u32,
    owner: Uuid,
    mark: File,
    _lock: File,
}

impl Slot {
    /// Takes the first free slot under `root`, which is made if it is missing.
    pub(super) fn take(root: &Path) -> io::Result<Self> {
        for number in 0..SLOTS {
            fs::create_dir_all(root.join(number.to_string()))?;
            if let Some(slot) = Self::lock(root, number)? {
                return Ok(slot);
            }
        }
        Err(io::Error::other(format!(
            "{SLOTS} processes are using the folder"
        )))
    }

    /// Slots whose process is gone for good, now held by us.
    pub(super) fn abandoned(&self) -> io::Result<Vec<Self>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let Some(number) = entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u32>().ok())
                .filter(|&number| number != self.number)
            else {
                continue;
            };
            let dir = self.root.join(number.to_string());
            // Another process may remove it under our eyes.
            if dir.join("lock").exists()
                && last_change(&dir).is_ok_and(|age| age > ABANDONED)
                && let Ok(Some(slot)) = Self::lock(&self.root, number)
            {
                found.push(slot);
            }
        }
        Ok(found)
    }

    fn lock(root: &Path, number: u32) -> io::Result<Option<Self>> {
        let dir = root.join(number.to_string());
        let open = |name: &str| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(dir.join(name))
        };
        let lock = open("lock")?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Whoever removed the slot held another lock, on a file that is no longer there.
        if !dir.join("lock").exists() {
            return Ok(None);
        }
        fs::create_dir_all(dir.join("orphans"))?;
        let known = fs::read_to_string(dir.join("owner")).unwrap_or_default();
        let owner = if let Ok(owner) = known.trim().parse() {
            owner
        } else {
            let owner = Uuid::now_v7();
            replace(&dir.join("owner"), owner.to_string().as_bytes())?;
            owner
        };
        Ok(Some(Self {
            root: root.to_path_buf(),
            number,
            owner,
            mark: open("mark")?,
            _lock: lock,
        }))
    }

    /// Who holds the leases of the rooms in here.
    pub(super) fn owner(&self) -> Uuid {
        self.owner
    }

    pub(super) fn dir(&self) -> PathBuf {
        self.root.join(self.number.to_string())
    }

    /// Where records of rooms wait that somebody else has.
    pub(super) fn orphans(&self) -> PathBuf {
        self.dir().join("orphans")
    }

    /// A segment's file.
    pub(super) fn segment(&self, start: u64) -> PathBuf {
        self.dir().join(format!("{start:020}.log"))
    }

    /// The segments that are there: position of the first record, and length in bytes without
    /// what a failed write has left behind the beginning of the next one.
    pub(super) fn segments(&self) -> io::Result<Vec<(u64, u64)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.dir())? {
            let entry = entry?;
            if let Some(start) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.strip_suffix(".log")?.parse::<u64>().ok())
            {
                found.push((start, entry.metadata()?.len()));
            }
        }
        found.sort_unstable();
        for index in 1..found.len() {
            let next = found[index].0;
            let (start, length) = &mut found[index - 1];
            *length = (*length).min(next - *start);
        }
        Ok(found)
    }

    /// Before which position all is published, if that can be read.
    pub(super) fn mark(&self) -> Option<u64> {
        let mut bytes = [0; 12];
        self.mark.read_exact_at(&mut bytes, 0).ok()?;
        let (position, sum) = bytes.split_at(8);
        let sum = u32::from_le_bytes(sum.try_into().ok()?);
        (crc32fast::hash(position) == sum)
            .then(|| position.try_into().ok().map(u64::from_le_bytes))?
    }

    /// Says that all before this position is published. Not synced: an older mark makes us publish
    /// again what Redis recognises.
    pub(super) fn set_mark(&self, position: u64) -> io::Result<()> {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&position.to_le_bytes());
        bytes[8..].copy_from_slice(&crc32fast::hash(&position.to_le_bytes()).to_le_bytes());
        self.mark.write_all_at(&bytes, 0)
    }

    /// Removes all that is in it; the slot is free then.
    pub(super) fn remove(self) -> io::Result<()> {
        fs::remove_dir_all(self.dir())
    }
}

/// Puts `content` in the place of a file, whole or not at all.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, content)?;
    File::open(&new)?.sync_all()?;
    fs::rename(&new, path)?;
    sync_folder(path)
}

/// Makes a file's name durable.
pub(super) fn sync_folder(file: &Path) -> io::Result<()> {
    match file.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// How long ago anything in the folder was changed.
fn last_change(dir: &Path) -> io::Result<Duration> {
    let mut youngest = Duration::MAX;
    for entry in fs::read_dir(dir)? {
        let changed = entry?.metadata()?.modified()?;
        youngest = youngest.min(changed.elapsed().unwrap_or_default());
    }
    Ok(youngest)
}
