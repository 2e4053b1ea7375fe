//! A queue that grows in pieces: a doubling one would hold twice its content just when the window is largest.

use std::collections::VecDeque;

const PIECE: usize = 1024;

#[derive(Debug)]
pub(crate) struct Fifo<T> {
    pieces: VecDeque<VecDeque<T>>,
    len: usize,
}

impl<T> Fifo<T> {
    pub(crate) fn new() -> Fifo<T> {
        Fifo { pieces: VecDeque::new(), len: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn push(&mut self, item: T) {
        if self.pieces.back().is_none_or(|p| p.len() == PIECE) {
            self.pieces.push_back(VecDeque::with_capacity(PIECE));
        }
        self.pieces.back_mut().expect("just made").push_back(item);
        self.len += 1;
    }

    pub(crate) fn front(&self) -> Option<&T> {
        self.pieces.front()?.front()
    }

    pub(crate) fn front_mut(&mut self) -> Option<&mut T> {
        self.pieces.front_mut()?.front_mut()
    }

    pub(crate) fn back_mut(&mut self) -> Option<&mut T> {
        self.pieces.back_mut()?.back_mut()
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let piece = self.pieces.front_mut()?;
        let item = piece.pop_front();
        if piece.is_empty() {
            self.pieces.pop_front();
        }
        self.len -= usize::from(item.is_some());
        item
    }

    /// Keeps what `keep` wants, in order.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&T) -> bool) {
        let mut kept = Fifo::new();
        while let Some(item) = self.pop() {
            if keep(&item) {
                kept.push(item);
            }
        }
        *self = kept;
    }
}
