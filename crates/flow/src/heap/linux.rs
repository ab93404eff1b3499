//! By malloc_trim(3) of glibc.
#![allow(unsafe_code)]

/// Hands what is free back to the system, wherever it lies: free(3) alone does so at the end of a heap only, where one block in use
/// keeps all before it.
pub fn hand_back_memory() {
    // SAFETY: it takes no pointer, and locks each heap that it works on.
    unsafe { libc::malloc_trim(0) };
}
