//! What a bug of this program would do: builds with debug assertions alone can have one, to show what becomes of the host.

/// A bug that shows after a while.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bug {
    panic_at: Option<u32>,
}

impl Bug {
    /// Reads `panic=N`; `None` is another key, or no number.
    pub(super) fn read(&mut self, key: &str, value: &str) -> Option<()> {
        self.panic_at = Some(value.parse().ok().filter(|_| key == "panic")?);
        Some(())
    }

    /// Called for each packet of a direction of a queue.
    ///
    /// # Panics
    /// At the Nth, as asked.
    pub(super) fn strike(&mut self) {
        match &mut self.panic_at {
            Some(0) => panic!("on purpose, by --fault panic"),
            Some(left) => *left -= 1,
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::fault::{Fault, FaultSpec};

    #[test]
    fn it_strikes_when_asked_and_not_before() {
        let spec: FaultSpec = "panic=2".parse().unwrap();
        let now = std::time::Instant::now();
        let third = std::panic::catch_unwind(|| {
            let mut link = Fault::new(spec);
            link.push(now, &[0; 60]);
            link.push(now, &[0; 60]);
            assert!(link.pop_due(now).is_some() && link.pop_due(now).is_some());
            link.push(now, &[0; 60]);
        });
        assert_eq!(third.unwrap_err().downcast_ref(), Some(&"on purpose, by --fault panic"));
        assert!("panic=soon".parse::<FaultSpec>().is_err());
    }
}
