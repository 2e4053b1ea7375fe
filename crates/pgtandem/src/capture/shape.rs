//! The shape of a row as its node described it: which columns, in which order.

use std::sync::{Arc, RwLock};

use hub::TableId;

/// Names a [`Shape`] inside images; valid for the life of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShapeId(pub u32);

impl ShapeId {
    /// Set in an image's id when one of its values is [`Value::Unchanged`](super::Value::Unchanged).
    const PARTIAL: u32 = 1 << 31;

    #[must_use]
    pub fn is_partial(self) -> bool {
        self.0 & Self::PARTIAL != 0
    }

    #[must_use]
    pub fn number(self) -> u32 {
        self.0 & !Self::PARTIAL
    }

    #[must_use]
    pub fn partial(self) -> Self {
        Self(self.0 | Self::PARTIAL)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shape {
    pub table: TableId,
    /// Column names in the order of the values of an image.
    pub columns: Vec<String>,
}

/// All shapes met since the process started; they are few, and never forgotten while images may name them.
#[derive(Debug, Clone, Default)]
pub struct Shapes(Arc<RwLock<Vec<Arc<Shape>>>>);

impl Shapes {
    #[must_use]
    pub fn intern(&self, shape: Shape) -> ShapeId {
        let mut shapes = self.0.write().expect("no thread panics while it holds the shapes");
        let at = shapes.iter().position(|known| **known == shape).unwrap_or_else(|| {
            shapes.push(Arc::new(shape));
            shapes.len() - 1
        });
        ShapeId(u32::try_from(at).expect("fewer than 2^32 shapes"))
    }

    /// # Panics
    /// If the id came from another `Shapes`.
    #[must_use]
    pub fn get(&self, id: ShapeId) -> Arc<Shape> {
        let shapes = self.0.read().expect("no thread panics while it holds the shapes");
        Arc::clone(&shapes[id.number() as usize])
    }
}
