//! Reading numbers and strings from a message of the server, which may be cut short or wrong.

use crate::error::{Error, Result};

/// A place in a message. Every read is checked: what is missing becomes `Error::Malformed`.
pub(crate) struct Cursor<'a> {
    data: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Cursor { data, at: 0 }
    }

    #[inline]
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    #[inline]
    pub(crate) fn remaining(&self) -> usize {
        self.data.len() - self.at
    }

    #[inline]
    pub(crate) fn take(&mut self, length: usize, what: &'static str) -> Result<&'a [u8]> {
        // Not `at + length`: a length from the wire may be anything.
        if length > self.remaining() {
            return Err(Error::malformed(what, self.at));
        }
        let taken = &self.data[self.at..self.at + length];
        self.at += length;
        Ok(taken)
    }

    #[inline]
    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N]> {
        match self.data[self.at..].first_chunk::<N>() {
            Some(bytes) => {
                self.at += N;
                Ok(*bytes)
            }
            None => Err(Error::malformed(what, self.at)),
        }
    }

    #[inline]
    pub(crate) fn u8(&mut self, what: &'static str) -> Result<u8> {
        Ok(u8::from_be_bytes(self.array(what)?))
    }

    #[inline]
    pub(crate) fn u16(&mut self, what: &'static str) -> Result<u16> {
        Ok(u16::from_be_bytes(self.array(what)?))
    }

    #[inline]
    pub(crate) fn u32(&mut self, what: &'static str) -> Result<u32> {
        Ok(u32::from_be_bytes(self.array(what)?))
    }

    #[inline]
    pub(crate) fn i32(&mut self, what: &'static str) -> Result<i32> {
        Ok(i32::from_be_bytes(self.array(what)?))
    }

    #[inline]
    pub(crate) fn u64(&mut self, what: &'static str) -> Result<u64> {
        Ok(u64::from_be_bytes(self.array(what)?))
    }

    #[inline]
    pub(crate) fn i64(&mut self, what: &'static str) -> Result<i64> {
        Ok(i64::from_be_bytes(self.array(what)?))
    }

    /// A yes or no; anything but 0 and 1 is malformed.
    pub(crate) fn bool(&mut self, what: &'static str) -> Result<bool> {
        match self.u8(what)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(Error::malformed(what, self.at - 1)),
        }
    }

    /// Bytes up to a NUL, which is passed over.
    pub(crate) fn cstr(&mut self, what: &'static str) -> Result<&'a [u8]> {
        let rest = &self.data[self.at..];
        let length = rest.iter().position(|byte| *byte == 0).ok_or(Error::malformed(what, self.at))?;
        self.at += length + 1;
        Ok(&rest[..length])
    }

    /// A NUL-terminated string. The connection's encoding is UTF-8, so anything else is malformed.
    pub(crate) fn string(&mut self, what: &'static str) -> Result<String> {
        let at = self.at;
        let bytes = self.cstr(what)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(Error::malformed(what, at)),
        }
    }

    /// Nothing may be left.
    #[inline]
    pub(crate) fn end(&self, what: &'static str) -> Result<()> {
        match self.remaining() {
            0 => Ok(()),
            _ => Err(Error::malformed(what, self.at)),
        }
    }
}
