//! pg_caption: image captions where the data lives.
pgrx::pg_module_magic!(name, version);
