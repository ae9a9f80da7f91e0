//! Does a folder tell what it says, and never that things are gone by mistake?

use super::*;
use isthmus_control_plane_core::model::{Kind, Object, ObjectRef, Spec};
use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A source that runs, and what it has told so far, put together as the world does.
struct Running {
    folder: tempfile::TempDir,
    changes: mpsc::Receiver<Change>,
    report: watch::Receiver<Report>,
    objects: BTreeMap<ObjectRef, Object>,
    listed: bool,
    lost: Option<String>,
    kept: Vec<Kind>,
    deletes: Vec<String>,
    inits: usize,
}

/// A test that waits longer than this has failed.
const LIMIT: Duration = Duration::from_secs(20);

fn pod(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\nstatus: {{podIP: {ip}}}\n"
    )
}

impl Running {
    async fn start(files: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        Self::over(folder)
    }

    fn over(folder: tempfile::TempDir) -> Self {
        Self::looking(folder, Folder::scan)
    }

    fn looking(folder: tempfile::TempDir, look: Look) -> Self {
        let source = FilesSource::new(&"east".parse().unwrap(), &folder.path().join("."));
        let report = source.report();
        let (send, changes) = mpsc::channel(64);
        tokio::spawn(source.look_with(look, send));
        let (objects, deletes) = (BTreeMap::new(), Vec::new());
        Self {
            folder,
            changes,
            report,
            objects,
            listed: false,
            lost: None,
            kept: Vec::new(),
            deletes,
            inits: 0,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Init { .. } => {
                self.inits += 1;
                self.objects.clear();
            }
            Change::Apply(object) => {
                self.objects.insert(object.reference(), object);
            }
            Change::Delete(at) => {
                self.deletes.push(at.name.clone());
                self.objects.remove(&at);
            }
            Change::InitDone { kept, .. } => {
                (self.listed, self.lost) = (true, None);
                self.kept = kept.into_iter().collect();
            }
            Change::Lost { reason, .. } => self.lost = Some(reason),
            Change::Confirmed { .. }
            | Change::Listed { .. }
            | Change::Older { .. }
            | Change::Reached { .. }
            | Change::Refused { .. } => {}
        }
    }

    /// Takes changes until what they come to is as it should be.
    async fn until(&mut self, what: &str, mut good: impl FnMut(&Self) -> bool) {
        let wait = async {
            while !good(self) {
                let change = self.changes.recv().await.expect("the source runs");
                self.take(change);
            }
        };
        timeout(LIMIT, wait)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"));
    }

    async fn until_report(&mut self, what: &str, mut good: impl FnMut(&Report) -> bool) {
        let mut report = self.report.clone();
        // The changes are taken meanwhile: the source waits for nobody else.
        let wait = async {
            loop {
                if good(&report.borrow_and_update()) {
                    break;
                }
                tokio::select! {
                    changed = report.changed() => changed.unwrap(),
                    change = self.changes.recv() => self.take(change.unwrap()),
                }
            }
        };
        timeout(LIMIT, wait)
            .await
            .unwrap_or_else(|_| panic!("never: {what}"));
    }

    fn names(&self) -> Vec<&str> {
        self.objects.keys().map(|at| at.name.as_str()).collect()
    }

    fn ip(&self, name: &str) -> Option<String> {
        let object = self.objects.values().find(|object| object.name == name)?;
        let Spec::Pod(pod) = &object.spec else {
            return None;
        };
        pod.ips.first().map(ToString::to_string)
    }
}

#[tokio::test]
async fn a_folder_is_listed_and_followed() {
    let mut running = Running::start(&[("a.yaml", pod("a", "10.0.0.1"))]).await;
    running
        .until("listed", |r| r.listed && r.names() == ["a"])
        .await;
    fs::create_dir(running.path("more")).unwrap();
    running.write("more/b.yml", &pod("b", "10.0.0.2"));
    running.write("more/readme.md", "not a manifest");
    running.write(".hidden.yaml", &pod("hidden", "10.0.0.9"));
    running
        .until("a file in a new folder", |r| r.names() == ["a", "b"])
        .await;
    running.write("a.yaml", &pod("a", "10.0.0.7"));
    running
        .until("an edit", |r| r.ip("a").as_deref() == Some("10.0.0.7"))
        .await;
    fs::remove_file(running.path("more/b.yml")).unwrap();
    running.until("a deletion", |r| r.names() == ["a"]).await;
    assert_eq!(
        (running.deletes.as_slice(), running.inits),
        (["b".to_owned()].as_slice(), 1)
    );
}

#[tokio::test]
async fn a_bad_file_is_named_and_what_it_said_stays() {
    let mut running = Running::start(&[
        ("a.yaml", pod("a", "10.0.0.1")),
        ("b.yaml", pod("b", "10.0.0.2")),
    ])
    .await;
    running.until("listed", |r| r.listed).await;
    running.write(
        "b.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: b, namespace: shop}\nstatus:\n  podIP: [\n",
    );
    running.write("a.yaml", &pod("a", "10.0.0.7"));
    running
        .until("the good file's edit", |r| {
            r.ip("a").as_deref() == Some("10.0.0.7")
        })
        .await;
    running
        .until_report("the report", |report| report.errors.contains_key("b.yaml"))
        .await;
    let problem = running.report.borrow().errors["b.yaml"][0].clone();
    assert!(problem.line >= 5, "{problem}");
    assert_eq!(running.ip("b").as_deref(), Some("10.0.0.2"));
    running.write("b.yaml", &pod("b", "10.0.0.8"));
    running
        .until("mended", |r| r.ip("b").as_deref() == Some("10.0.0.8"))
        .await;
    running
        .until_report("no more errors", |report| report.errors.is_empty())
        .await;
    assert_eq!(running.deletes, Vec::<String>::new());
}

#[tokio::test]
async fn a_service_with_an_unknown_transport_or_family_stays_as_it_was() {
    let service = |spec: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: cart, namespace: shop}}\nspec: {spec}\n"
        )
    };
    let mut running =
        Running::start(&[("cart.yaml", service("{ports: [{port: 80}, {port: 81}]}"))]).await;
    running.until("listed", |r| r.listed).await;
    let before = running.objects.clone();
    for (spec, field) in [
        (
            "{ports: [{port: 80, protocol: TPC}]}",
            "spec.ports[0].protocol: \"TPC\"",
        ),
        (
            "{ipFamilies: [IPv5], ports: [{port: 80}]}",
            "spec.ipFamilies: \"IPv5\"",
        ),
    ] {
        running.write("cart.yaml", &service(spec));
        running
            .until_report(field, |report| {
                let problem = report.errors.get("cart.yaml").and_then(|all| all.first());
                problem.is_some_and(|problem| {
                    (problem.line, problem.object.as_str()) == (4, "Service shop/cart")
                        && problem.message.starts_with(field)
                })
            })
            .await;
        assert_eq!(running.objects, before);
    }
}

#[tokio::test]
async fn a_file_that_was_never_understood_holds_nothing_up_but_what_is_gone() {
    let mut running = Running::start(&[
        ("a.yaml", pod("a", "10.0.0.1")),
        ("b.yaml", "kind: Pod".to_owned()),
    ])
    .await;
    running.until("lost", |r| r.lost.is_some()).await;
    let reason = running.lost.clone().unwrap();
    assert!(reason.starts_with("b.yaml:1:1: "), "{reason}");
    assert_eq!(running.names(), ["a"]);
    assert_eq!(
        running.kept,
        Kind::ALL,
        "absence would mean that there is none"
    );
    // What is said beside it counts.
    running.write("c.yaml", &pod("c", "10.0.0.3"));
    running.until("c", |r| r.names() == ["a", "c"]).await;
    running.write("b.yaml", &pod("b", "10.0.0.2"));
    running
        .until("listed", |r| {
            r.lost.is_none() && r.kept.is_empty() && r.names() == ["a", "b", "c"]
        })
        .await;
    assert_eq!(running.inits, 2);
}

#[tokio::test]
async fn an_object_that_moves_is_never_gone() {
    let mut running = Running::start(&[
        ("a.yaml", pod("a", "10.0.0.1")),
        ("b.yaml", pod("b", "10.0.0.2")),
    ])
    .await;
    running.until("listed", |r| r.listed).await;
    for _ in 0..5 {
        fs::rename(running.path("b.yaml"), running.path("c.yaml")).unwrap();
        fs::rename(running.path("c.yaml"), running.path("b.yaml")).unwrap();
    }
    fs::remove_file(running.path("b.yaml")).unwrap();
    running.write(
        "moved.yaml",
        &format!("{}---\n{}", pod("b", "10.0.0.2"), pod("z", "10.0.0.3")),
    );
    running
        .until("moved", |r| r.names() == ["a", "b", "z"])
        .await;
    assert_eq!(running.deletes, Vec::<String>::new());
}

#[tokio::test]
async fn an_editors_rename_is_an_edit() {
    let mut running = Running::start(&[("a.yaml", pod("a", "10.0.0.1"))]).await;
    running.until("listed", |r| r.listed).await;
    for n in 2..6 {
        running.write("a.yaml~", &pod("a", &format!("10.0.0.{n}")));
        fs::rename(running.path("a.yaml~"), running.path("a.yaml")).unwrap();
    }
    running
        .until("the last edit", |r| {
            r.ip("a").as_deref() == Some("10.0.0.5")
        })
        .await;
    assert_eq!(running.deletes, Vec::<String>::new());
}

#[tokio::test]
async fn a_folder_that_vanishes_is_lost_and_not_empty() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("east");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a.yaml"), pod("a", "10.0.0.1")).unwrap();
    let source = FilesSource::new(&"east".parse().unwrap(), &root);
    let report = source.report();
    let (send, changes) = mpsc::channel(64);
    tokio::spawn(source.run(send));
    let (objects, deletes) = (BTreeMap::new(), Vec::new());
    let folder = outer;
    let mut running = Running {
        folder,
        changes,
        report,
        objects,
        listed: false,
        lost: None,
        kept: Vec::new(),
        deletes,
        inits: 0,
    };
    running.until("listed", |r| r.listed).await;
    fs::rename(&root, running.path("away")).unwrap();
    running.until("lost", |r| r.lost.is_some()).await;
    assert_eq!((running.names(), running.deletes.len()), (vec!["a"], 0));
    fs::rename(running.path("away"), &root).unwrap();
    running.until("back", |r| r.lost.is_none()).await;
    assert_eq!((running.names(), running.inits), (vec!["a"], 2));
    fs::write(root.join("b.yaml"), pod("b", "10.0.0.2")).unwrap();
    running
        .until("followed again", |r| r.names() == ["a", "b"])
        .await;
}

#[tokio::test]
async fn of_two_that_declare_the_same_the_first_counts() {
    let mut running = Running::start(&[
        ("a.yaml", pod("a", "10.0.0.1")),
        ("b.yaml", pod("a", "10.0.0.2")),
    ])
    .await;
    running.until("listed", |r| r.listed).await;
    assert_eq!(running.ip("a").as_deref(), Some("10.0.0.1"));
    let problem = running.report.borrow().errors["b.yaml"][0].clone();
    let told = problem.in_file("b.yaml");
    assert_eq!(
        told,
        "b.yaml:1:1: Pod shop/a: is in a.yaml:1 already, which counts"
    );
    fs::remove_file(running.path("a.yaml")).unwrap();
    running
        .until("the other counts", |r| {
            r.ip("a").as_deref() == Some("10.0.0.2")
        })
        .await;
    assert_eq!(running.deletes, Vec::<String>::new());
}

#[tokio::test]
async fn an_edit_makes_nothing_younger() {
    let mut running = Running::start(&[("a.yaml", pod("a", "10.0.0.1"))]).await;
    running.until("listed", |r| r.listed).await;
    let created = |r: &Running| r.objects.values().next().unwrap().created;
    let before = created(&running);
    assert!(before.is_some());
    running.write("a.yaml", &pod("a", "10.0.0.2"));
    running
        .until("an edit", |r| r.ip("a").as_deref() == Some("10.0.0.2"))
        .await;
    assert_eq!(created(&running), before);
}

#[tokio::test]
async fn a_look_is_no_reason_for_the_next_one() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), pod("a", "10.0.0.1")).unwrap();
    let (send, mut events) = mpsc::channel(256);
    let mut watcher = notify::recommended_watcher(move |event| {
        let _ = send.try_send(event);
    })
    .unwrap();
    watcher
        .watch(folder.path(), RecursiveMode::Recursive)
        .unwrap();
    let mut look = Folder::new("east".parse().unwrap(), folder.path().to_path_buf());
    for _ in 0..3 {
        look.scan(Instant::now(), SystemTime::now());
    }
    // Events come in the order of what happened: the first news is of this file.
    let last = folder.path().join("last.yaml");
    fs::write(&last, pod("last", "10.0.0.2")).unwrap();
    let mut own = 0;
    loop {
        let event = timeout(LIMIT, events.recv()).await.expect("an event");
        let event = event.expect("the watcher lives");
        if is_news(&event) {
            assert_eq!(event.unwrap().paths, [last]);
            break;
        }
        own += 1;
    }
    assert!(own > 0, "the looks were seen, and were no news");
}

#[tokio::test]
async fn a_panic_is_counted_and_the_next_look_begins_anew() {
    static PANICS: AtomicBool = AtomicBool::new(false);
    let running = Running::looking(tempfile::tempdir().unwrap(), |folder, now, time| {
        assert!(!PANICS.swap(false, Ordering::Relaxed), "a bug");
        folder.scan(now, time)
    });
    let mut running = running;
    running.write("a.yaml", &pod("a", "10.0.0.1"));
    running
        .until("listed", |r| r.listed && !r.objects.is_empty())
        .await;
    PANICS.store(true, Ordering::Relaxed);
    running.write("b.yaml", &pod("b", "10.0.0.2"));
    running.until("lost", |r| r.lost.is_some()).await;
    running
        .until("both again", |r| {
            r.lost.is_none() && r.names() == ["a", "b"]
        })
        .await;
    running.until_report("counted", |r| r.panics == 1).await;
    assert_eq!(running.deletes, Vec::<String>::new());
}

/// What was logged, by everybody who writes to it.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_cluster_that_is_lost_and_one_that_is_back_are_in_the_log() {
    let east: ClusterId = "east".parse().unwrap();
    let source = FilesSource::new(&east, Path::new("/no/such/folder"));
    let mut folder = Folder::new(east.clone(), source.root.clone());
    let log = Log::default();
    let to = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || to.clone());
    let back = Change::InitDone {
        cluster: east,
        kept: [].into(),
    };
    tracing::subscriber::with_default(subscriber.finish(), || {
        let mut lost = false;
        for _ in 0..3 {
            for change in folder.scan(Instant::now(), SystemTime::now()).changes {
                lost = source.log(&change, lost);
            }
        }
        assert!(lost);
        assert!(!source.log(&back, lost) && !source.log(&back, false));
    });
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].contains("WARN") && lines[0].contains("/no/such/folder"),
        "{text}"
    );
    assert!(
        lines[1].contains("INFO") && lines[1].contains("back"),
        "{text}"
    );
}
