//! The rows that a node has read ahead, with the requests for their calls.
//!
//! Called by `scan`. Bounded by the number of rows, and by `work_mem` for rows and pictures.

use crate::api::call::spec_of;
use crate::api::context::CallContext;
use crate::api::{rule, style, value};
use crate::lookahead::attempt::attempt;
use crate::lookahead::calls::GuardTest;
use crate::lookahead::functions::PictureArgument;
use crate::lookahead::requests::{self, AheadPicture, AheadSpec};
use crate::pg::guc_scope::GucScope;
use crate::settings;
use pg_caption_style::{CaptionStyle, MAX_TOKENS, MIN_TOKENS};
use pg_caption_wire::{CaptionOutcome, ContextFacts, MAX_URL_BYTES, OutputSpec, is_blank};
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::{FromDatum, pg_sys};
use std::cell::Cell;
use std::collections::{HashMap, VecDeque};

/// Styles that a window remembers.
const MAX_STYLES: usize = 64;
/// Rows that are read at a time while the answer for the next one is there.
const CATCH_UP: usize = 2;

/// A call that can be evaluated.
pub struct CallState {
    pub picture: PictureArgument,
    pub guards: Vec<(*mut pg_sys::ExprState, GuardTest)>,
    /// Picture, style, limit of tokens, context.
    pub arguments: [*mut pg_sys::ExprState; 4],
}

/// A row that was read ahead.
struct AheadRow {
    tuple: pg_sys::MinimalTuple,
    bytes: usize,
    /// Numbers of its requests.
    requests: Vec<u64>,
}

/// The arguments of a call, evaluated.
struct CallArguments {
    picture: AheadPicture,
    /// The picture, if it is not fetched.
    body: Vec<u8>,
    style: String,
    max_tokens: u32,
    context: Option<ContextFacts>,
}

/// The rows that a node has read ahead.
pub struct RowWindow {
    /// Identifies its requests.
    number: u64,
    calls: Vec<CallState>,
    rows: VecDeque<AheadRow>,
    /// The row whose turn it is.
    current: Option<AheadRow>,
    /// Where rows are kept.
    memory: pg_sys::MemoryContext,
    /// Bytes of the rows.
    bytes: usize,
    /// Most rows that are needed, if known.
    limit: Option<u64>,
    /// Rows read so far.
    read: u64,
    /// Rows read since a row was returned.
    read_in_turn: usize,
    /// The child has no further rows.
    is_complete: bool,
    /// A client waits for the first row: its picture is requested alone.
    is_awaited: bool,
    styles: HashMap<String, Option<CaptionStyle>>,
}

thread_local! {
    static NEXT_NUMBER: Cell<u64> = const { Cell::new(1) };
    /// The window whose row is being computed.
    static ACTIVE: Cell<*mut RowWindow> = const { Cell::new(std::ptr::null_mut()) };
}

/// The answer to a call, if it was requested ahead for the row that is being computed. `None`: the
/// call must make its own request.
pub fn answer(url: Option<&str>, bytes: &[u8], output: &OutputSpec) -> Option<CaptionOutcome> {
    // SAFETY: a window is active only while it exists.
    let window = unsafe { ACTIVE.get().as_ref() }?;
    let requests = &window.current.as_ref()?.requests;
    if requests.is_empty() {
        return None;
    }
    requests::wait(requests, &AheadPicture::of_call(url, bytes), output)
}

impl RowWindow {
    /// An empty window, whose rows are kept in `memory`.
    pub fn new(
        memory: pg_sys::MemoryContext,
        calls: Vec<CallState>,
        is_awaited: bool,
    ) -> RowWindow {
        let number = NEXT_NUMBER.get();
        NEXT_NUMBER.set(number + 1);
        RowWindow {
            number,
            calls,
            rows: VecDeque::new(),
            current: None,
            memory,
            bytes: 0,
            limit: None,
            read: 0,
            read_in_turn: 0,
            is_complete: false,
            is_awaited,
            styles: HashMap::new(),
        }
    }

    /// Makes this the window whose row is being computed; returns the one before it.
    pub fn activate(window: *mut RowWindow) -> *mut RowWindow {
        ACTIVE.replace(window)
    }

    /// Sets how many rows are needed at most.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = Some(limit);
    }

    /// Whether another row should be read from the child now.
    pub fn wants_row(&self) -> bool {
        if self.is_complete {
            return false;
        }
        let Some(next) = self.rows.front() else { return true };
        !self.is_awaited
            && self.rows.len() <= settings::lookahead()
            && self.limit.is_none_or(|limit| self.read < limit)
            && self.bytes < budget()
            && requests::has_room()
            && (self.read_in_turn < CATCH_UP || !requests::are_answered(&next.requests))
    }

    /// The child has no further rows.
    pub fn complete(&mut self) {
        self.is_complete = true;
    }

    /// Keeps a copy of a row of the child, and requests the pictures of its calls. `slot` receives
    /// the row for the evaluation, in the memory of `context`.
    ///
    /// # Safety
    /// The row has the columns of `slot`; the calls were prepared for `slot` and `context`.
    pub unsafe fn push(
        &mut self,
        row: *mut pg_sys::TupleTableSlot,
        slot: *mut pg_sys::TupleTableSlot,
        context: *mut pg_sys::ExprContext,
    ) {
        // SAFETY: as promised by the caller.
        let tuple = unsafe { self.copy(row) };
        // SAFETY: a minimal tuple begins with its length.
        let bytes = unsafe { (*tuple).t_len as usize };
        self.bytes += bytes;
        self.read += 1;
        self.read_in_turn += 1;
        let is_ahead = self.limit.is_none_or(|limit| self.read <= limit);
        let mut requests = Vec::new();
        if is_ahead {
            // SAFETY: the tuple stays in the window's memory; the rest as promised by the caller.
            let calls = unsafe {
                pg_sys::ExecForceStoreMinimalTuple(tuple, slot, false);
                self.evaluate(context)
            };
            requests = self.request(calls);
            // SAFETY: the slot of the caller.
            unsafe { pg_guard_ffi_boundary(|| (*(*slot).tts_ops).clear.map(|clear| clear(slot))) };
        }
        self.rows.push_back(AheadRow { tuple, bytes, requests });
    }

    /// Gives the next row its turn; returns its tuple, which lives until the next call. `None`:
    /// there are no further rows.
    pub fn advance(&mut self) -> Option<pg_sys::MinimalTuple> {
        self.drop_current();
        self.read_in_turn = 0;
        self.current = self.rows.pop_front();
        // It is computed before another row is read.
        self.is_awaited &= self.current.as_ref().is_none_or(|row| row.requests.is_empty());
        self.current.as_ref().map(|row| row.tuple)
    }

    /// Drops all rows and cancels their requests: the child starts again.
    pub fn restart(&mut self) {
        self.drop_current();
        while let Some(row) = self.rows.pop_front() {
            self.drop_row(row);
        }
        requests::release(self.number);
        (self.read, self.read_in_turn, self.is_complete) = (0, 0, false);
        self.limit = None;
    }

    fn drop_current(&mut self) {
        if let Some(row) = self.current.take() {
            self.drop_row(row);
        }
    }

    fn drop_row(&mut self, row: AheadRow) {
        requests::forget(&row.requests);
        self.bytes -= row.bytes;
        // SAFETY: allocated by `copy`, and not used further.
        unsafe { pg_sys::pfree(row.tuple.cast()) };
    }

    /// # Safety
    /// `row` holds a row.
    unsafe fn copy(&self, row: *mut pg_sys::TupleTableSlot) -> pg_sys::MinimalTuple {
        // SAFETY: as promised by the caller; the memory lives as long as the window.
        unsafe {
            let before = pg_sys::MemoryContextSwitchTo(self.memory);
            let mut is_own = false;
            let mut tuple = pg_sys::ExecFetchSlotMinimalTuple(row, &mut is_own);
            if !is_own {
                #[cfg(not(feature = "pg18"))]
                {
                    tuple = pg_sys::heap_copy_minimal_tuple(tuple);
                }
                #[cfg(feature = "pg18")]
                {
                    tuple = pg_sys::heap_copy_minimal_tuple(tuple, 0);
                }
            }
            pg_sys::MemoryContextSwitchTo(before);
            tuple
        }
    }

    /// Evaluates the calls for the row in the slot. Those whose conditions are not met are left
    /// out. After an error all are: the row's turn raises it.
    ///
    /// # Safety
    /// As of [`RowWindow::push`].
    unsafe fn evaluate(&self, context: *mut pg_sys::ExprContext) -> Vec<CallArguments> {
        let room = budget().saturating_sub(self.bytes + requests::bytes(self.number));
        // SAFETY: as promised by the caller. Values are in the memory of the context, which is
        // reset when the row's turn comes.
        unsafe {
            let memory = (*context).ecxt_per_tuple_memory;
            let before = pg_sys::MemoryContextSwitchTo(memory);
            let calls = attempt(|| {
                let evaluated = self.calls.iter().filter_map(|call| call.evaluate(context, room));
                evaluated.collect::<Vec<_>>()
            });
            pg_sys::MemoryContextSwitchTo(before);
            pg_sys::MemoryContextReset(memory);
            calls.unwrap_or_default()
        }
    }

    /// Requests the pictures of the calls of one row: calls for the same picture together.
    fn request(&mut self, calls: Vec<CallArguments>) -> Vec<u64> {
        // As the function itself.
        let Some(rules) = as_function(rule::current) else { return Vec::new() };
        let mut wanted: Vec<(AheadSpec, Vec<u8>)> = Vec::new();
        for call in calls {
            let Some(style) = self.style(call.style) else { continue };
            let output = spec_of(style, call.max_tokens, call.context);
            match wanted.iter_mut().find(|(spec, _)| spec.picture == call.picture) {
                Some((spec, _)) if spec.outputs.contains(&output) => {}
                Some((spec, _)) => spec.outputs.push(output),
                None => {
                    let spec = AheadSpec {
                        picture: call.picture,
                        outputs: vec![output],
                        min_confidence: settings::min_confidence(),
                        rules: rules.clone(),
                    };
                    wanted.push((spec, call.body));
                }
            }
        }
        let submit =
            |(spec, body): (AheadSpec, Vec<u8>)| requests::submit(self.number, spec, &body);
        wanted.into_iter().filter_map(submit).collect()
    }

    /// The definition of a style; `None`: it does not exist, or cannot be read. The row's turn
    /// reads it again, so an old definition costs only time.
    fn style(&mut self, name: String) -> Option<CaptionStyle> {
        if let Some(style) = self.styles.get(&name) {
            return style.clone();
        }
        let style = as_function(|| style::find(&name));
        if self.styles.len() >= MAX_STYLES {
            self.styles.clear();
        }
        self.styles.entry(name).or_insert(style.flatten()).clone()
    }
}

impl Drop for RowWindow {
    /// Its memory is released by PostgreSQL.
    fn drop(&mut self) {
        if std::ptr::eq(ACTIVE.get(), self) {
            ACTIVE.set(std::ptr::null_mut());
        }
        requests::release(self.number);
    }
}

/// Bytes for rows and pictures of one window.
fn budget() -> usize {
    // SAFETY: reads a setting, in kilobytes.
    unsafe { pg_sys::work_mem as usize * 1024 }
}

impl CallState {
    /// The arguments for a row; `None`: no request is needed, or none can be made ahead.
    ///
    /// # Safety
    /// As of [`RowWindow::push`].
    unsafe fn evaluate(
        &self,
        context: *mut pg_sys::ExprContext,
        room: usize,
    ) -> Option<CallArguments> {
        // SAFETY: as promised by the caller; the declaration of the function names the types.
        unsafe {
            let is_made =
                |(condition, test): &(_, GuardTest)| test.passes(value_of(*condition, context));
            if !self.guards.iter().all(is_made) {
                return None;
            }
            let [picture, style, max_tokens, facts] = self.arguments;
            let picture = value_of(picture, context)?;
            let style = text(value_of(style, context)?)?;
            let max_tokens = value_of(max_tokens, context)?;
            let max_tokens = u32::try_from(i32::from_datum(max_tokens, false)?).ok()?;
            if !(MIN_TOKENS..=MAX_TOKENS).contains(&max_tokens) {
                return None;
            }
            let size = value::datum_size(picture);
            let (picture, body) = match self.picture {
                PictureArgument::Url if size > MAX_URL_BYTES => return None,
                PictureArgument::Url => {
                    let url = text(picture)?;
                    if is_blank(&url) {
                        return None;
                    }
                    (AheadPicture::Url(url), Vec::new())
                }
                PictureArgument::Bytes => {
                    if size as u64 > settings::max_image_size() || size > room {
                        return None;
                    }
                    let body = bytes(picture);
                    (AheadPicture::of_bytes(&body), body)
                }
            };
            let facts = CallContext::of_datum(value_of(facts, context)).facts();
            Some(CallArguments { picture, body, style, max_tokens, context: facts })
        }
    }
}

/// The value of an expression; `None` is NULL.
///
/// # Safety
/// The expression was prepared for the context.
pub unsafe fn value_of(
    expression: *mut pg_sys::ExprState,
    context: *mut pg_sys::ExprContext,
) -> Option<pg_sys::Datum> {
    // SAFETY: as promised by the caller; every prepared expression has the function.
    unsafe {
        let evaluate = (*expression).evalfunc?;
        let mut is_null = false;
        let value = pg_guard_ffi_boundary(|| evaluate(expression, context, &mut is_null));
        (!is_null).then_some(value)
    }
}

/// The bytes of a value of variable length.
///
/// # Safety
/// The value is of such a type.
unsafe fn bytes(value: pg_sys::Datum) -> Vec<u8> {
    // SAFETY: as promised by the caller.
    unsafe {
        let packed = pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr());
        pgrx::varlena::varlena_to_byte_slice(packed).to_vec()
    }
}

/// A text; `None`: it is not UTF-8, or longer than any URL or name.
///
/// # Safety
/// The value is a text.
unsafe fn text(value: pg_sys::Datum) -> Option<String> {
    // SAFETY: as promised by the caller.
    unsafe {
        let is_short = value::datum_size(value) <= MAX_URL_BYTES;
        is_short.then(|| String::from_utf8(bytes(value)).ok()).flatten()
    }
}

/// Reads a table as the function itself would; `None`: it cannot be read.
fn as_function<T>(read: impl FnOnce() -> T) -> Option<T> {
    attempt(|| {
        let scope = GucScope::sealed();
        scope.set(c"search_path", c"pg_catalog, pg_temp");
        read()
    })
}
