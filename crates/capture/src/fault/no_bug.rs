//! Builds for users: nobody can ask them for a bug.

/// None.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bug;

impl Bug {
    pub(super) fn read(&mut self, _key: &str, _value: &str) -> Option<()> {
        None
    }

    pub(super) fn strike(&mut self) {}
}
