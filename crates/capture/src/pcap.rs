//! Writing the captured packets to a file that tcpdump and Wireshark read.
//!
//! The classic format (draft-ietf-opsawg-pcap, magic 0xa1b23c4d: nanoseconds) with link type `LINKTYPE_RAW` (101):
//! each record is an IP packet. Checksums that the kernel left to the device are completed in the copy.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use oneway_wire::virtio::{VirtioNetHdr, complete_checksum};

use crate::{FRAME_HEADER, MAX_FRAME};

/// A packet file that several queues write to.
#[derive(Debug)]
pub struct PcapWriter<W: Write = BufWriter<File>> {
    out: Mutex<W>,
    /// Why a record may have been written in part: nothing behind it could be read.
    broken: OnceLock<io::ErrorKind>,
}

impl PcapWriter {
    /// Creates or truncates the file and writes its header. What is no file is refused: a pipe that nobody reads would hold up
    /// the worker that writes, and all that it carries.
    pub fn create(path: &Path) -> io::Result<Self> {
        if std::fs::metadata(path).is_ok_and(|there| !there.is_file()) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
        }
        Self::new(BufWriter::new(File::create(path)?))
    }
}

impl<W: Write> PcapWriter<W> {
    /// Writes the file header to `out`.
    pub fn new(mut out: W) -> io::Result<Self> {
        out.write_all(&0xa1b2_3c4d_u32.to_le_bytes())?;
        out.write_all(&2u16.to_le_bytes())?;
        out.write_all(&4u16.to_le_bytes())?;
        out.write_all(&[0; 8])?;
        out.write_all(&(MAX_FRAME as u32).to_le_bytes())?;
        out.write_all(&101u32.to_le_bytes())?;
        out.flush()?;
        Ok(Self { out: Mutex::new(out), broken: OnceLock::new() })
    }

    /// Appends one frame (see [`crate::FRAME_HEADER`]) with the time of now. After an error there is nothing but errors:
    /// the file ends.
    pub fn write(&self, frame: &[u8]) -> io::Result<()> {
        let Some((header, packet)) = frame.split_first_chunk::<FRAME_HEADER>() else {
            return Ok(());
        };
        let mut packet = packet.to_vec();
        // A header that does not fit its packet leaves the packet as it was: the file shows what was seen.
        let _ = complete_checksum(&VirtioNetHdr::decode(header), &mut packet);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut record = Vec::with_capacity(16 + packet.len());
        record.extend((now.as_secs() as u32).to_le_bytes());
        record.extend(now.subsec_nanos().to_le_bytes());
        record.extend((packet.len() as u32).to_le_bytes());
        record.extend((packet.len() as u32).to_le_bytes());
        record.append(&mut packet);
        let mut out = self.out.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.is_whole()?;
        out.write_all(&record).inspect_err(|error| {
            let _ = self.broken.set(error.kind());
        })
    }

    fn is_whole(&self) -> io::Result<()> {
        self.broken.get().map_or(Ok(()), |kind| Err((*kind).into()))
    }

    /// Hands what is buffered to the operating system. An error also where [`PcapWriter::write`] has met one.
    pub fn flush(&self) -> io::Result<()> {
        self.is_whole()?;
        self.out.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that has room for so many bytes, fills, and has room again.
    struct Disk {
        bytes: Vec<u8>,
        full_at: usize,
        errors: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let room = self.full_at - self.bytes.len();
            if room == 0 {
                self.errors += 1;
                self.full_at += 100;
                return Err(io::ErrorKind::StorageFull.into());
            }
            let len = bytes.len().min(room);
            self.bytes.extend_from_slice(&bytes[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_file_that_could_not_be_written_ends_there() {
        let file = PcapWriter::new(Disk { bytes: Vec::new(), full_at: 24 + 36 + 20, errors: 0 }).unwrap();
        let frame = [vec![0; FRAME_HEADER], vec![0x45; 20]].concat();
        file.write(&frame).unwrap();
        for _ in 0..3 {
            assert_eq!(file.write(&frame).unwrap_err().kind(), io::ErrorKind::StorageFull);
        }
        assert_eq!(file.flush().unwrap_err().kind(), io::ErrorKind::StorageFull);
        let disk = file.out.into_inner().unwrap();
        assert_eq!(disk.errors, 1);
        assert_eq!(disk.bytes.len(), 24 + 36 + 20, "nothing behind the record that is cut off");
    }

    #[test]
    fn header_and_record_are_as_the_format_says() {
        let file = PcapWriter::new(Vec::new()).unwrap();
        let mut frame = vec![0; FRAME_HEADER];
        frame.extend([0x45, 0, 0, 20]);
        file.write(&frame).unwrap();
        let bytes = file.out.into_inner().unwrap();
        assert_eq!(&bytes[..4], &[0x4d, 0x3c, 0xb2, 0xa1]);
        assert_eq!(&bytes[20..24], &[101, 0, 0, 0]);
        assert_eq!(&bytes[32..40], &[4, 0, 0, 0, 4, 0, 0, 0]);
        assert_eq!(&bytes[40..], &[0x45, 0, 0, 20]);
    }
}
