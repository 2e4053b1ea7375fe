//! A column of values as one `text[]` parameter, copied from the images as they stand.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

const TEXT_OID: u32 = 25;

/// The elements of a binary `text[]`: each a length word and that many bytes.
#[derive(Debug, Default)]
pub struct TextArray {
    elements: Vec<u8>,
    count: i32,
    has_null: bool,
}

impl TextArray {
    /// `raw` is a length word (-1: NULL) and the bytes behind it.
    pub fn push_raw(&mut self, raw: &[u8]) {
        self.has_null |= raw.starts_with(&(-1_i32).to_be_bytes());
        self.elements.extend_from_slice(raw);
        self.count += 1;
    }
}

impl ToSql for TextArray {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.reserve(20 + self.elements.len());
        out.put_i32(i32::from(self.count > 0)); // dimensions: an empty array has none
        out.put_i32(i32::from(self.has_null));
        out.put_u32(TEXT_OID);
        if self.count > 0 {
            out.put_i32(self.count);
            out.put_i32(1); // lower bound
        }
        out.put_slice(&self.elements);
        Ok(IsNull::No)
    }

    fn accepts(ty: &Type) -> bool {
        *ty == Type::TEXT_ARRAY
    }

    to_sql_checked!();
}
