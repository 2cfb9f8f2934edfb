//! Buffers that are reused between calls, so that their pages are not mapped and cleared every time.

use std::cell::Cell;

/// Elements of a line of the caches.
const LINE: usize = 16;

thread_local! {
    static BUFFERS: Cell<Vec<Vec<f32>>> = const { Cell::new(Vec::new()) };
}

/// Passes a buffer of `len` elements with arbitrary values to `body`. Calls may nest.
pub(super) fn with_scratch<R>(len: usize, body: impl FnOnce(&mut [f32]) -> R) -> R {
    let mut buffers = BUFFERS.take();
    let mut buffer = buffers.pop().unwrap_or_default();
    BUFFERS.set(buffers);
    if buffer.len() < len + LINE {
        buffer.resize(len + LINE, 0.0);
    }
    // Vectors that cross the lines of the caches are read more slowly; not every allocator aligns its memory to them.
    let from = buffer.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    let result = body(&mut buffer[from..from + len]);
    let mut buffers = BUFFERS.take();
    buffers.push(buffer);
    BUFFERS.set(buffers);
    result
}
