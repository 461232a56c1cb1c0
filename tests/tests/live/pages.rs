//! The code blocks of README.md and docs: SQL is run as it is written, one database for each page;
//! JSON is read by its reader; the server reads its settings; options and targets exist. Blocks
//! for a shell are run by `pages` of the engine's tests.

use pg_caption_checks::{CodeBlock, ScriptedAnswer, ScriptedServer, code_blocks, indented_code};
use pg_caption_fetch::RequestHeaders;
use pg_caption_models::{CascadeSettings, FolderGuard, RemoteSettings};
use pg_caption_tests::{
    ModelsDirectory, TestCluster, TestDatabase, TestServer, TestSession, module_file, project,
    shared_database, sql_blocks,
};
use serde_json::json;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The pages whose SQL is run here, and what each presupposes besides `products`.
const PAGES: [(&str, &str); 10] = [
    ("docs/functions.md", "SELECT caption.watch('products')"),
    ("docs/languages.md", ""),
    ("docs/monitoring/README.md", ""),
    ("docs/more-than-one-machine.md", ""),
    (
        "docs/publishing.md",
        "TRUNCATE products;
         INSERT INTO products (title, sku, page_url, image_url, alt, seo)
         VALUES ('Cup', 'C-1', 'https://shop.example/cup', 'https://cdn.example/cup.jpg',
                 'Red cup', 'Red cup with a gold rim on a wooden table.')",
    ),
    ("docs/review.md", ""),
    ("docs/speed.md", ""),
    (
        "docs/watching.md",
        "CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql
            AS $$ BEGIN RETURN NEW; END $$",
    ),
    // They choose another model for the server.
    ("docs/models.md", ""),
    ("docs/remote-models.md", ""),
];

/// The pages whose SQL another file of tests runs.
const ELSEWHERE: [(&str, &str); 8] = [
    ("README.md", "tutorial"),
    ("docs/galleries.md", "image_columns"),
    ("docs/install.md", "tutorial"),
    ("docs/migrate-a-catalogue.md", "migrate"),
    ("docs/private-images.md", "private_images"),
    ("docs/reference.md", "reference"),
    ("docs/schemas.md", "schemas"),
    ("docs/tutorial.md", "tutorial"),
];

/// SQL that is not run as it stands: page, how it begins, and why.
const NOT_RUN: [(&str, &str, &str); 3] = [
    ("docs/galleries.md", "SELECT coalesce(j.v->>'url'", "image_columns runs its trigger whole"),
    ("docs/private-images.md", "SELECT caption.watch(", "private_images watches other tables"),
    ("docs/private-images.md", "INSERT INTO signing.key", "its values stand for secrets"),
];

fn read(path: &str) -> String {
    std::fs::read_to_string(project().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All pages: README.md, those of the book, and CONTRIBUTING.md.
fn pages() -> Vec<String> {
    let mut found = pg_caption_checks::pages(project());
    found.push("CONTRIBUTING.md".into());
    found
}

/// The products that the pages speak of.
fn create_products(session: &mut TestSession, web: &TestServer) {
    session.run(
        "CREATE TABLE products (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, title text, \
         brand text, sku text, page_url text, published boolean DEFAULT true, \
         deleted_at timestamptz, image_url text, alt text, alt_de text, seo text)",
    );
    for url in web.pictures(4) {
        session.run(&format!(
            "INSERT INTO products (title, brand, image_url) VALUES ('Cup', 'Acme', '{url}')"
        ));
    }
}

/// Runs the statements of a block one by one, because procedures commit. Returns the first columns
/// of the last one that has rows.
fn run_sql(session: &mut TestSession, sql: &str) -> Result<String, String> {
    let mut last = Vec::new();
    for statement in sql.split_inclusive(";\n") {
        let rows = match session.try_rows(statement) {
            Ok(rows) => rows,
            Err(error) => match error.as_db_error() {
                // PostgreSQL's own functions for XML are an option of its build.
                Some(error) if error.message() == "unsupported XML feature" => {
                    println!("skipped: this PostgreSQL was built without libxml");
                    return Ok(String::new());
                }
                Some(error) => return Err(format!("{statement}{error}\n{:?}", error.hint())),
                None => return Err(format!("{statement}{error}")),
            },
        };
        if !rows.is_empty() {
            last = rows;
        }
    }
    let cells = last.into_iter().filter_map(|row| row.into_iter().next().flatten());
    Ok(cells.collect::<Vec<_>>().join("\n"))
}

/// Runs a block in psql, in a folder where `review.csv` was saved.
fn run_psql(db: &TestDatabase<'_>, text: &str) -> Result<String, String> {
    let folder = std::env::temp_dir().join(format!("pgc-pages-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).expect("its mode");
    let head = "key,column,decision,text,reason,version\n";
    std::fs::write(folder.join("review.csv"), head).expect("a file");
    let mut psql = db.cluster.tool("psql");
    psql.args(["-X", "-v", "ON_ERROR_STOP=1", "-d", &db.name]).current_dir(&folder);
    psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = psql.spawn().expect("psql");
    child.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("psql reads");
    let output = child.wait_with_output().expect("psql ends");
    let written = std::fs::read_to_string(folder.join("sheet.html"));
    let _ = std::fs::remove_dir_all(&folder);
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(written.unwrap_or_default())
}

/// Runs a page and returns what is wrong.
fn run_page(cluster: &TestCluster, web: &TestServer, path: &str, setup: &str) -> Vec<String> {
    let db = cluster.database();
    let mut session = db.session();
    create_products(&mut session, web);
    session.run(setup);
    let (mut wrong, mut result, mut ran) = (Vec::new(), String::new(), 0);
    for CodeBlock { language, text } in code_blocks(&read(path)) {
        let done = match language {
            "sql" => run_sql(&mut session, text),
            "psql" => run_psql(&db, text),
            // The result of the statement before.
            "html" | "text" if text != result => Err(format!("the result is\n{result}")),
            _ => continue,
        };
        ran += usize::from(language == "sql");
        match done {
            Ok(rows) => result = rows,
            Err(error) => wrong.push(format!("{path}: {text}\n{error}")),
        }
        if language == "psql" && text.contains("sheet.html") && !result.ends_with("</html>\n") {
            wrong.push(format!("{path}: {text}\nwrote {result}"));
        }
    }
    assert!(ran > 0, "{path} has no SQL");
    wrong
}

#[test]
fn the_sql_of_each_page_runs() {
    let server = ScriptedServer::start(|_| ScriptedAnswer::text("A cup on a table.", Some(0.9)));
    let models = ModelsDirectory::of(&["default", "Florence-2-base-ft"]);
    models.write("default", "captions.json", &json!({ "languages": ["en", "de"] }));
    let remote = remote_json("docs/remote-models.md");
    models.put(
        "gpu",
        "remote.json",
        &remote.replace("http://10.0.0.5:8000/v1", &server.url()),
        0o644,
    );
    let (cluster, web) = (models.cluster("default"), TestServer::start());
    cluster.session("postgres").run("CREATE ROLE editor");
    let wrong: Vec<String> =
        PAGES.iter().flat_map(|(path, setup)| run_page(&cluster, &web, path, setup)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn no_page_has_sql_that_no_test_runs() {
    let begins = |text: &str, words: &[&str]| words.iter().any(|word| text.starts_with(word));
    let mut used = [false; NOT_RUN.len()];
    for path in pages() {
        let page = read(&path);
        let lines: Vec<&str> = indented_code(&page).collect();
        let sql = ["SELECT ", "CALL ", "INSERT ", "UPDATE ", "CREATE ", "ALTER ", "EXPLAIN "];
        let fenced: Vec<&str> = sql_blocks(&page).collect();
        for (entry, used) in NOT_RUN.iter().zip(&mut used).filter(|(entry, _)| entry.0 == path) {
            *used |= fenced.iter().chain(&lines).any(|text| text.starts_with(entry.1));
        }
        let is_listed =
            |text: &&&str| NOT_RUN.iter().any(|entry| entry.0 == path && text.starts_with(entry.1));
        let unfenced = lines.iter().find(|line| begins(line, &sql) && !is_listed(line));
        assert_eq!(unfenced, None, "{path} has SQL outside of a block of SQL");
        let run_here = PAGES.iter().any(|(page, _)| *page == path);
        let elsewhere = ELSEWHERE.iter().find(|(page, _)| *page == path);
        assert_eq!(
            run_here || elsewhere.is_some(),
            !fenced.is_empty(),
            "{path} has SQL, and is in no list; or the reverse"
        );
        if let Some((_, test)) = elsewhere {
            let source = read(&format!("tests/tests/live/{test}.rs"));
            assert!(source.contains(path.as_str()), "{test} does not read {path}");
        }
    }
    assert_eq!(used, [true; NOT_RUN.len()], "entries without a block: {NOT_RUN:?}");
}

/// The `remote.json` that a shell block of a page writes.
fn remote_json(path: &str) -> String {
    let found = code_blocks(&read(path)).find_map(|block| {
        let (from, to) = (block.text.find('{')?, block.text.rfind('}')?);
        (block.language == "sh").then(|| block.text[from..=to].to_owned())
    });
    found.unwrap_or_else(|| panic!("{path} writes no remote.json"))
}

/// Reads a `cascade.json`, whose reader wants a folder.
fn read_cascade(text: &str) -> Result<(), String> {
    let models = std::env::temp_dir().join(format!("pgc-cascade-{}", std::process::id()));
    let folder = models.join("cascade");
    std::fs::create_dir_all(&folder).expect("a folder");
    for path in [&models, &folder] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    }
    std::fs::write(folder.join("cascade.json"), text).expect("a file");
    let settings = FolderGuard::new(&folder, &models, None)
        .and_then(|guard| CascadeSettings::of_folder(&guard));
    let _ = std::fs::remove_dir_all(&models);
    settings.map(drop).map_err(|error| error.to_string())
}

#[test]
fn the_json_of_each_page_is_read() {
    let remote = |text: &str| {
        let settings = RemoteSettings::parse(text.as_bytes(), Path::new("remote.json"));
        settings.map(drop).map_err(|error| error.to_string())
    };
    for path in pages() {
        let page = read(&path);
        for block in code_blocks(&page).filter(|block| block.language == "json") {
            let read = match path.as_str() {
                "docs/cascade.md" => read_cascade(block.text),
                "docs/models.md" => {
                    let styles = pg_caption_style::of_folder(block.text.as_bytes(), "florence2");
                    styles.map(drop).map_err(|error| error.to_string())
                }
                "docs/remote-models.md" => remote(block.text),
                "docs/settings.md" => RequestHeaders::parse(block.text.as_bytes()).map(drop),
                _ => Err("no reader is named here".into()),
            };
            assert_eq!(read, Ok(()), "{path}: {}", block.text);
        }
    }
    for path in ["docs/remote-models.md", "docs/more-than-one-machine.md"] {
        assert_eq!(remote(&remote_json(path)), Ok(()), "{path}");
    }
}

/// The settings of a page are those of the servers under test, read from the same file.
#[test]
fn the_settings_of_each_page_are_read() {
    let db = shared_database();
    let mut checked = 0;
    for path in pages() {
        let page = read(&path);
        for line in code_blocks(&page).filter(|block| block.language == "ini") {
            let (name, value) = line.text.split_once(" = ").expect("a setting");
            let sql = format!(
                "EXISTS (SELECT FROM pg_file_settings WHERE name = '{name}' AND setting = {value} \
                 AND error IS NULL)"
            );
            assert!(db.session().holds(&sql), "{path}: {}", line.text);
            checked += 1;
        }
    }
    assert!(checked > 0, "no page has settings");
}

/// The lines of code of all pages that are no SQL.
fn code_lines() -> Vec<(String, String)> {
    let lines = |path: String| {
        let page = read(&path);
        let shell = code_blocks(&page).filter(|block| block.language == "sh");
        let lines = shell.flat_map(|block| block.text.lines()).chain(indented_code(&page));
        let lines = lines.map(|line| (path.clone(), line.trim_start().to_owned()));
        lines.collect::<Vec<_>>()
    };
    pages().into_iter().flat_map(lines).collect()
}

/// `--help` in place of the end: the arguments before it are checked, and nothing is done.
#[test]
fn the_commands_of_each_page_exist() {
    let library = module_file("pg_caption");
    let engine = library.parent().expect("a folder").join("pg_caption/pg_caption_engine");
    let mut checked = 0;
    for (path, line) in code_lines() {
        let line = line.trim_start_matches("source <(");
        let Some(arguments) = line.strip_prefix("pg_caption_engine ") else { continue };
        let arguments = arguments.split(['#', '|', ')']).next().unwrap_or_default();
        let output = Command::new(&engine)
            .args(arguments.split_whitespace())
            .arg("--help")
            .output()
            .expect("the engine program");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{path}: {line}\n{error}");
        checked += 1;
    }
    assert!(checked > 8, "too few commands: {checked}");
}

#[test]
fn the_make_targets_of_each_page_exist() {
    let makefile = read("Makefile");
    let (mut missing, mut checked) = (Vec::new(), 0);
    let mut check = |path: &str, rest: &str| {
        let end = rest.find(|c: char| !(c.is_ascii_lowercase() || c == '-'));
        let target = &rest[..end.unwrap_or(rest.len())];
        checked += 1;
        if !makefile.contains(&format!("\n{target}:")) {
            missing.push(format!("{path}: make {target}"));
        }
    };
    for (path, line) in code_lines() {
        if let Some(rest) = line.strip_prefix("make ") {
            check(&path, rest);
        }
    }
    for path in pages() {
        read(&path).split("`make ").skip(1).for_each(|rest| check(&path, rest));
    }
    assert!(missing.is_empty(), "{missing:?}");
    assert!(checked > 10, "too few targets: {checked}");
}
