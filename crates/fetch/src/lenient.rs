//! Response heads as browsers accept them: header names with blanks, folded lines, blanks before
//! colons, lines without colons, `ICY 200 OK`. Used only for hosts whose heads the HTTP client
//! refused, on connections that serve one request (`framing_offenders.rs`): how such a head frames
//! its body cannot affect another response.
//!
//! A line is kept where it has one meaning, and dropped where it has none.

use crate::attempt;
use crate::client::MAX_HEADERS;
use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
};

/// Size of the output buffer: requests are small.
const OUTPUT: usize = 64 * 1024;

/// Wraps connections in [`LenientStream`] while the attempt of this thread asks for it.
#[derive(Debug, Default)]
pub(crate) struct LenientHeads;

impl<In: Transport> Connector<In> for LenientHeads {
    type Out = Either<In, LenientStream<In>>;

    fn connect(
        &self,
        _: &ConnectionDetails,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        Ok(chained.map(|inner| match attempt::is_lenient() {
            false => Either::A(inner),
            true => Either::B(LenientStream {
                inner,
                buffers: LazyBuffers::new(MAX_HEADERS, OUTPUT),
                in_body: false,
            }),
        }))
    }
}

/// A connection whose response head is rewritten.
#[derive(Debug)]
pub(crate) struct LenientStream<T: Transport> {
    inner: T,
    buffers: LazyBuffers,
    /// The head has passed.
    in_body: bool,
}

impl<T: Transport> LenientStream<T> {
    /// Moves what has arrived of the body, or of a head that does not end.
    fn pass(&mut self) -> bool {
        let from = self.inner.buffers();
        let into = self.buffers.input_append_buf();
        let amount = from.input().len().min(into.len());
        into[..amount].copy_from_slice(&from.input()[..amount]);
        from.input_consume(amount);
        self.buffers.input_appended(amount);
        amount > 0
    }
}

impl<T: Transport> Transport for LenientStream<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let mut sent = 0;
        while sent < amount {
            let into = self.inner.buffers().output();
            let part = (amount - sent).min(into.len());
            into[..part].copy_from_slice(&self.buffers.output()[sent..sent + part]);
            self.inner.transmit_output(part, timeout)?;
            sent += part;
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        while !self.in_body {
            let received = self.inner.buffers().input();
            if !may_begin_head(received) {
                self.in_body = true;
                break;
            }
            let Some(end) = head_end(received) else {
                if received.len() >= MAX_HEADERS {
                    return Err(Error::LargeResponseHeader(received.len(), MAX_HEADERS));
                }
                if self.inner.await_input(timeout)? {
                    continue;
                }
                // The connection ended within the head, which the parser then refuses.
                self.in_body = true;
                break;
            };
            match clean(&received[..end]) {
                CleanedHead::Final(head) => {
                    let into = self.buffers.input_append_buf();
                    if head.len() > into.len() {
                        return Err(Error::LargeResponseHeader(head.len(), MAX_HEADERS));
                    }
                    into[..head.len()].copy_from_slice(&head);
                    self.buffers.input_appended(head.len());
                    self.inner.buffers().input_consume(end);
                    self.in_body = true;
                    return Ok(true);
                }
                // The final answer follows.
                CleanedHead::Preliminary => self.inner.buffers().input_consume(end),
                // Not HTTP: the parser refuses it.
                CleanedHead::Unknown => self.in_body = true,
            }
        }
        if self.pass() {
            return Ok(true);
        }
        self.inner.await_input(timeout)?;
        Ok(self.pass())
    }

    fn is_open(&mut self) -> bool {
        self.buffers.input().is_empty() && self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

/// A head after [`clean`].
#[derive(Debug, PartialEq, Eq)]
enum CleanedHead {
    /// A well-formed head.
    Final(Vec<u8>),
    /// The head of a preliminary response (1xx).
    Preliminary,
    /// It does not begin like a response.
    Unknown,
}

/// Whether bytes may be the begin of a head. Another protocol may never send the end of a line.
fn may_begin_head(bytes: &[u8]) -> bool {
    let begun = bytes.trim_ascii_start();
    ["HTTP", "ICY "].iter().any(|start| {
        let length = begun.len().min(start.len());
        begun[..length].eq_ignore_ascii_case(&start.as_bytes()[..length])
    })
}

/// The end of a head: after its first empty line that follows another line.
fn head_end(bytes: &[u8]) -> Option<usize> {
    let mut begun = false;
    let mut at = 0;
    for line in bytes.split_inclusive(|b| *b == b'\n') {
        at += line.len();
        if !line.ends_with(b"\n") {
            return None;
        }
        if !line.trim_ascii().is_empty() {
            begun = true;
        } else if begun && matches!(line, b"\n" | b"\r\n") {
            return Some(at);
        }
    }
    None
}

fn clean(head: &[u8]) -> CleanedHead {
    let mut lines =
        head.split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let first = lines.find(|line| !line.trim_ascii().is_empty()).unwrap_or_default();
    let Some((version, status)) = status(first) else { return CleanedHead::Unknown };
    // 101 would change the protocol.
    if status.starts_with('1') && status != "101" {
        return CleanedHead::Preliminary;
    }
    let mut headers: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    // A folded line belongs to the header above, even if that was dropped.
    let mut kept = false;
    for line in lines {
        let text = line.trim_ascii();
        if line.first().is_some_and(|b| matches!(b, b' ' | b'\t')) {
            if let Some((_, value)) = headers.last_mut().filter(|_| kept && !text.is_empty()) {
                value.push(b' ');
                value.extend(text);
            }
            continue;
        }
        let colon = text.iter().position(|b| *b == b':');
        let name = colon.map(|at| text[..at].trim_ascii_end()).filter(|name| is_token(name));
        kept = name.is_some();
        if let (Some(name), Some(at)) = (name, colon) {
            headers.push((name.to_vec(), text[at + 1..].trim_ascii().to_vec()));
        }
    }
    let mut cleaned = format!("{version} {status}\r\n").into_bytes();
    for (name, value) in headers {
        cleaned.extend(name);
        cleaned.extend(b": ");
        cleaned.extend(value.iter().map(|b| if is_text(*b) { *b } else { b' ' }));
        cleaned.extend(b"\r\n");
    }
    cleaned.extend(b"\r\n");
    CleanedHead::Final(cleaned)
}

/// Version and status of a status line. The answer of SHOUTcast, `ICY`, is HTTP/1.0: it ends with
/// the connection.
fn status(line: &[u8]) -> Option<(&'static str, &str)> {
    let line = std::str::from_utf8(line.get(..line.len().min(32))?).ok()?;
    let mut words = line.split_ascii_whitespace();
    let (protocol, status) = (words.next()?, words.next()?);
    let version = match protocol.to_ascii_uppercase().as_str() {
        "ICY" | "HTTP/1.0" | "HTTP" => "HTTP/1.0",
        name if name.starts_with("HTTP/") => "HTTP/1.1",
        _ => return None,
    };
    (status.len() == 3 && status.bytes().all(|b| b.is_ascii_digit())).then_some((version, status))
}

/// Whether a name is a token (RFC 9110, 5.6.2).
fn is_token(name: &[u8]) -> bool {
    !name.is_empty()
        && name.iter().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(b))
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(head: &str) -> String {
        match clean(head.as_bytes()) {
            CleanedHead::Final(head) => String::from_utf8(head).unwrap(),
            other => panic!("{head:?} is {other:?}"),
        }
    }

    #[test]
    fn lines_are_kept_where_they_have_one_meaning() {
        for (line, kept) in [
            ("Content-Length: 7", "Content-Length: 7\r\n"),
            ("Content-Length : 7", "Content-Length: 7\r\n"),
            ("Content-Length\t:7 ", "Content-Length: 7\r\n"),
            ("X Powered By: PHP", ""),
            ("no colon", ""),
            (": no name", ""),
            ("X-A: one\r\n two\r\n\tthree", "X-A: one two three\r\n"),
            (" folded: without a header", ""),
            ("X A: one\r\n Content-Length: 7", ""),
            ("X-A: a\u{1}b", "X-A: a b\r\n"),
            ("Location: /caf\u{e9}", "Location: /caf\u{e9}\r\n"),
        ] {
            let head = format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n");
            assert_eq!(cleaned(&head), format!("HTTP/1.1 200\r\n{kept}\r\n"), "{line}");
            let bare = head.replace('\r', "");
            assert_eq!(cleaned(&bare), format!("HTTP/1.1 200\r\n{kept}\r\n"), "{line}");
        }
    }

    #[test]
    fn a_status_line_may_be_unusual() {
        for (line, read) in [
            ("ICY 200 OK", "HTTP/1.0 200"),
            ("HTTP/1.0 404", "HTTP/1.0 404"),
            ("http/1.1  200  fine", "HTTP/1.1 200"),
            ("HTTP/2 200", "HTTP/1.1 200"),
            ("\r\nHTTP/1.1 200 OK", "HTTP/1.1 200"),
        ] {
            assert_eq!(cleaned(&format!("{line}\r\n\r\n")), format!("{read}\r\n\r\n"), "{line}");
        }
        for line in ["SSH-2.0-OpenSSH", "HTTP/1.1 OK", "HTTP/1.1 20x", "<html>", "200 OK", ""] {
            assert_eq!(clean(format!("{line}\r\n\r\n").as_bytes()), CleanedHead::Unknown, "{line}");
        }
        assert_eq!(clean(b"HTTP/1.1 103 Early Hints\r\n\r\n"), CleanedHead::Preliminary);
    }

    #[test]
    fn a_head_ends_at_an_empty_line() {
        for (bytes, end) in [
            ("HTTP/1.1 200 OK\r\n\r\nbody\r\n\r\n", Some(19)),
            ("HTTP/1.1 200 OK\n\nbody", Some(17)),
            ("\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", Some(23)),
            ("HTTP/1.1 200 OK\r\n \r\nA: b\r\n\r\n", Some(28)),
            ("HTTP/1.1 200 OK\r\nA: b\r\n", None),
            ("HTTP/1.1 200 OK\r\n\r", None),
        ] {
            assert_eq!(head_end(bytes.as_bytes()), end, "{bytes:?}");
        }
    }
}
