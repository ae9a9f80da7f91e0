//! Is what can't be read or understood named by its file and line, and what does it come to?

use super::*;
use std::fs;
use std::os::unix::fs::symlink;

use isthmus_control_plane_core::model::Spec;

/// Later than what is missing is gone.
const LATER: Duration = MISSING.saturating_add(Duration::from_millis(1));

fn pod(name: &str, ip: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: shop}}\nstatus: {{podIP: {ip}}}\n"
    )
}

/// A folder that is looked at, without a task and a clock around it.
struct Looked {
    root: tempfile::TempDir,
    folder: Folder,
    now: Instant,
    again: bool,
}

impl Looked {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let folder = Folder::new("east".parse().unwrap(), root.path().to_path_buf());
        Self {
            root,
            folder,
            now: Instant::now(),
            again: false,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.at(name), text).unwrap();
    }

    /// One look; the next one is so much later that what is missing then is gone.
    fn scan(&mut self) -> Vec<Change> {
        self.now += LATER;
        let scan = self.folder.scan(self.now, SystemTime::now());
        self.again = scan.again;
        scan.changes
    }

    /// Looks until there is no reason to look again.
    fn settle(&mut self) -> Vec<Change> {
        let mut changes = self.scan();
        while self.again {
            changes.extend(self.scan());
        }
        changes
    }

    /// What is wrong with each file.
    fn errors(&self) -> Vec<String> {
        let report = self.folder.report();
        let lines = |(file, problems): (String, Vec<Problem>)| {
            let told = problems.iter().map(move |problem| problem.in_file(&file));
            told.collect::<Vec<_>>()
        };
        report.errors.into_iter().flat_map(lines).collect()
    }
}

fn deleted(changes: &[Change]) -> usize {
    let is_delete = |change: &&Change| matches!(change, Change::Delete(_));
    changes.iter().filter(is_delete).count()
}

#[test]
fn what_is_no_text_is_told_with_the_line_of_its_first_bad_byte() {
    let mut looked = Looked::new();
    looked.write("a.yaml", b"# a\nkind: \xc3\xa4\xff\n\xfe\n");
    looked.write("big.yaml", vec![b'#'; 8 * 1024 * 1024 + 1]);
    let changes = looked.settle();
    assert_eq!(
        looked.errors(),
        [
            "a.yaml:2:8: is not UTF-8: byte 0xff",
            "big.yaml: larger than 8 MiB"
        ]
    );
    let reason = changes.iter().find_map(|change| match change {
        Change::Lost { reason, .. } => Some(reason.as_str()),
        _ => None,
    });
    assert_eq!(reason, Some("a.yaml:2:8: is not UTF-8: byte 0xff"));
    // A file as a whole has no line.
    fs::remove_file(looked.at("a.yaml")).unwrap();
    let changes = looked.settle();
    let named = |change: &Change| matches!(change, Change::Lost { reason, .. } if reason == "big.yaml: larger than 8 MiB");
    assert!(changes.iter().any(named), "{changes:?}");
}

#[test]
fn of_an_object_that_is_there_twice_both_lines_are_told() {
    let mut looked = Looked::new();
    let (a, b) = (pod("a", "10.0.0.1"), pod("b", "10.0.0.2"));
    looked.write("1.yaml", format!("{a}---\n{b}"));
    looked.write("2.yaml", format!("# two\n{b}---\n{b}"));
    looked.settle();
    let told = "Pod shop/b: is in 1.yaml:5 already, which counts";
    assert_eq!(
        looked.errors(),
        [format!("2.yaml:1:1: {told}"), format!("2.yaml:6:1: {told}")]
    );
}

#[test]
fn a_file_that_is_added_takes_no_object_over() {
    let mut looked = Looked::new();
    let ip = |looked: &Looked| match &looked.folder.told.values().next().unwrap().spec {
        Spec::Pod(pod) => pod.ips.iter().map(ToString::to_string).collect::<String>(),
        other => panic!("{other:?}"),
    };
    looked.write("b.yaml", pod("b", "10.0.0.2"));
    looked.settle();
    for file in ["a.yaml", "c.yaml"] {
        looked.write(file, pod("b", "10.0.0.9"));
        looked.settle();
        assert_eq!(ip(&looked), "10.0.0.2");
        let told = format!("{file}:1:1: Pod shop/b: is in b.yaml:1 already, which counts");
        assert!(looked.errors().contains(&told), "{:?}", looked.errors());
    }
    looked.write("b.yaml", pod("b", "10.0.0.3"));
    looked.settle();
    assert_eq!(ip(&looked), "10.0.0.3", "it is edited where it is");
    fs::remove_file(looked.at("b.yaml")).unwrap();
    looked.settle();
    assert_eq!(ip(&looked), "10.0.0.9", "another one has it now");
    assert_eq!(looked.errors().len(), 1);
}

#[test]
fn a_link_whose_target_is_gone_is_a_file_that_cannot_be_read() {
    let (mut looked, elsewhere) = (Looked::new(), tempfile::tempdir().unwrap());
    let target = elsewhere.path().join("a");
    fs::write(&target, pod("a", "10.0.0.1")).unwrap();
    symlink(&target, looked.at("a.yaml")).unwrap();
    looked.write("b.yaml", pod("b", "10.0.0.2"));
    looked.settle();
    let before = looked.folder.told.clone();
    assert_eq!(before.len(), 2);
    fs::remove_file(&target).unwrap();
    assert_eq!(deleted(&looked.settle()), 0);
    let told = looked.errors().join("\n");
    let expected = format!("a.yaml: is a link to {}: No such file", target.display());
    assert!(told.starts_with(&expected), "{told}");
    assert_eq!(looked.folder.told, before);
    // Back again, it is read.
    fs::write(&target, pod("a", "10.0.0.3")).unwrap();
    looked.settle();
    assert!(looked.errors().is_empty() && looked.folder.told != before);
    // Who takes the link away means it.
    fs::remove_file(looked.at("a.yaml")).unwrap();
    assert_eq!(deleted(&looked.settle()), 1);
    assert!(looked.errors().is_empty());
}

#[test]
fn a_link_to_nothing_may_declare_anything_at_the_start() {
    let mut looked = Looked::new();
    symlink("none", looked.at("a.yaml")).unwrap();
    looked.write("b.yaml", pod("b", "10.0.0.2"));
    assert_eq!((looked.scan(), looked.again), (vec![], true));
    let changes = looked.settle();
    let is_lost = |change: &Change| matches!(change, Change::Lost { reason, .. } if reason.starts_with("a.yaml: is a link to none: "));
    assert!(changes.iter().any(is_lost), "{changes:?}");
    assert_eq!(looked.folder.told.len(), 1);
}

/// As the kubelet swaps a ConfigMap: the link `..data` first, then links of keys that are gone.
#[test]
fn the_swap_of_a_config_map_is_clean() {
    let mut looked = Looked::new();
    let version = |looked: &Looked, name: &str, files: &[(&str, &str)]| {
        fs::create_dir(looked.at(name)).unwrap();
        for (file, ip) in files {
            let text = pod(file.trim_end_matches(".yaml"), ip);
            fs::write(looked.at(name).join(file), text).unwrap();
        }
        symlink(name, looked.at("..data_tmp")).unwrap();
        fs::rename(looked.at("..data_tmp"), looked.at("..data")).unwrap();
    };
    let first = [("a.yaml", "10.0.0.1"), ("b.yaml", "10.0.0.2")];
    version(&looked, "..1", &first);
    for (file, _) in first {
        symlink(format!("..data/{file}"), looked.at(file)).unwrap();
    }
    looked.settle();
    assert_eq!(looked.folder.told.len(), 2);
    version(&looked, "..2", &[("a.yaml", "10.0.0.7")]);
    // In the midst of it: the link of the key that is gone leads to nothing.
    let changes = looked.scan();
    assert_eq!((deleted(&changes), looked.again), (0, true));
    assert_eq!(looked.errors(), Vec::<String>::new());
    fs::remove_file(looked.at("b.yaml")).unwrap();
    fs::remove_dir_all(looked.at("..1")).unwrap();
    assert_eq!(deleted(&looked.settle()), 1);
    assert_eq!(looked.errors(), Vec::<String>::new());
    let ips: Vec<_> = looked.folder.told.values().collect();
    assert!(
        matches!(&ips[..], [object] if object.name == "a"),
        "{ips:?}"
    );
}

/// Between the list of names and the reading of files an editor may take one away.
#[test]
fn a_file_that_is_gone_since_it_was_listed_is_no_error() {
    let mut looked = Looked::new();
    looked.write("a.yaml", pod("a", "10.0.0.1"));
    let meta = fs::metadata(looked.at("a.yaml")).unwrap();
    let path = looked.at("a.yaml");
    fs::remove_file(&path).unwrap();
    assert_eq!(looked.folder.read(&path, &meta), None);
    assert!(looked.folder.files.is_empty());
    symlink("none", &path).unwrap();
    let why = looked.folder.read(&path, &meta).unwrap();
    assert!(why.starts_with("is a link to none: "), "{why}");
}

/// Whether what it said before counts is for the world to say.
#[test]
fn a_policy_of_another_version_is_told_as_one_that_is_not_understood() {
    let policy = |version: &str| {
        format!(
            "apiVersion: isthmus.dev/{version}\nkind: AccessPolicy\nmetadata: {{name: p, namespace: shop}}\n\
             spec: {{action: Allow, rules: [{{from: [{{clusters: [east]}}]}}]}}\n"
        )
    };
    let understood = |looked: &Looked| {
        let told = looked
            .folder
            .told
            .values()
            .map(|object| match &object.spec {
                Spec::AccessPolicy(policy) => policy.invalid.is_none(),
                _ => panic!("a policy"),
            });
        told.collect::<Vec<_>>()
    };
    let mut looked = Looked::new();
    for (version, known) in [("v1beta1", false), ("v1alpha1", true), ("v1beta1", false)] {
        looked.write("p.yaml", policy(version));
        looked.settle();
        assert_eq!(understood(&looked), [known]);
        let problems = looked.folder.report().invalid;
        assert_eq!(problems.contains_key("p.yaml"), !known);
        if let Some(told) = problems.get("p.yaml") {
            let expected =
                "1:13: AccessPolicy shop/p: apiVersion: \"isthmus.dev/v1beta1\" is no version";
            assert!(told[0].to_string().starts_with(expected), "{}", told[0]);
        }
    }
}
