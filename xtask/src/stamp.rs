//! "Nothing changed, nothing to do": a stamp file holds a hash of a step's inputs, written after
//! the step succeeded.
//!
//! In: files and folders, plus words that matter too (versions, flags). Out: fresh or not. A
//! missing or unreadable stamp, or a missing product, means "do it again"; a crash between step
//! and stamp costs one more run and nothing else.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// Folders that hold products, never inputs.
const SKIPPED: [&str; 7] = [
    "target",
    "target-wasm",
    "node_modules",
    "build",
    "dist",
    "test-results",
    ".wrangler",
];

/// The inputs' hash and the file that remembers it.
#[derive(Debug)]
pub struct Stamp {
    file: PathBuf,
    hash: String,
}

impl Stamp {
    /// Hashes `inputs` (files, or folders with all below them) and `words`. An input that does not
    /// exist counts as absent, which is an input as well.
    pub fn of(file: impl Into<PathBuf>, inputs: &[PathBuf], words: &[&str]) -> Result<Self> {
        let mut hash = Sha256::new();
        for word in words {
            hash.update((word.len() as u64).to_le_bytes());
            hash.update(word);
        }
        for input in inputs {
            add(&mut hash, input).with_context(|| format!("reading {}", input.display()))?;
        }
        Ok(Self {
            file: file.into(),
            hash: hex::encode(hash.finalize()),
        })
    }

    /// Whether the last success had the same inputs and `products` are all still there.
    pub fn is_fresh(&self, products: &[PathBuf]) -> bool {
        fs::read_to_string(&self.file).is_ok_and(|old| old.trim() == self.hash)
            && products.iter().all(|product| product.exists())
    }

    /// Remembers the success.
    pub fn write(&self) -> Result<()> {
        if let Some(folder) = self.file.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&self.file, &self.hash)
            .with_context(|| format!("writing {}", self.file.display()))
    }
}

fn add(hash: &mut Sha256, path: &Path) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    hash.update((name.len() as u64).to_le_bytes());
    hash.update(name);
    let meta = match path.symlink_metadata() {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            hash.update([0]);
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    if meta.is_dir() {
        hash.update([1]);
        let mut entries = fs::read_dir(path)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<_>>>()?;
        entries.retain(|entry| {
            let name = entry.file_name().and_then(|name| name.to_str());
            !(entry.is_dir() && name.is_some_and(|name| SKIPPED.contains(&name)))
        });
        entries.sort();
        hash.update((entries.len() as u64).to_le_bytes());
        for entry in entries {
            add(hash, &entry)?;
        }
    } else if meta.is_file() {
        hash.update([2]);
        hash.update(meta.len().to_le_bytes());
        let mut file = File::open(path)?;
        let mut buffer = [0; 16 * 1024];
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                read => hash.update(&buffer[..read]),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_only_with_the_same_inputs_words_and_products() {
        let folder = tempfile::tempdir().unwrap();
        let inputs = vec![folder.path().join("src"), folder.path().join("Cargo.lock")];
        let products = vec![folder.path().join("product")];
        let file = folder.path().join("stamp");
        fs::create_dir_all(&inputs[0]).unwrap();
        fs::write(inputs[0].join("a.rs"), "one").unwrap();
        let stamp = |word: &str| Stamp::of(&file, &inputs, &[word]).unwrap();

        assert!(!stamp("dev").is_fresh(&[]), "no stamp yet");
        stamp("dev").write().unwrap();
        assert!(stamp("dev").is_fresh(&[]));
        assert!(!stamp("dev").is_fresh(&products), "the product is gone");
        fs::write(&products[0], "").unwrap();
        assert!(stamp("dev").is_fresh(&products));
        assert!(!stamp("release").is_fresh(&products), "another word");

        fs::write(inputs[0].join("a.rs"), "two").unwrap();
        assert!(!stamp("dev").is_fresh(&products), "another content");
        fs::write(inputs[0].join("a.rs"), "one").unwrap();
        assert!(stamp("dev").is_fresh(&products), "the old content again");
        fs::rename(inputs[0].join("a.rs"), inputs[0].join("b.rs")).unwrap();
        assert!(!stamp("dev").is_fresh(&products), "another name");
        fs::rename(inputs[0].join("b.rs"), inputs[0].join("a.rs")).unwrap();
        fs::write(&inputs[1], "").unwrap();
        assert!(!stamp("dev").is_fresh(&products), "one that was absent");
        fs::remove_file(&inputs[1]).unwrap();
        fs::create_dir(inputs[0].join("node_modules")).unwrap();
        assert!(stamp("dev").is_fresh(&products), "products are no inputs");
    }
}
