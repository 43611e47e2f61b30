//! `cargo xtask aws-local` as its user meets it: what it says works when used as it says, and nothing of it is left
//! when it ends, however it ends. Also that no function asks AWS for anything while it starts.
//!
//! Takes the packages and programs that `cargo xtask test` made. Must not know: anything of the command's inside.

#[cfg(target_os = "linux")]
mod aws {
    use std::collections::{BTreeMap, BTreeSet};
    use std::net::{SocketAddr, TcpStream};
    use std::path::PathBuf;
    use std::process::{ExitStatus, Stdio};

    use anyhow::{Context, ensure};
    use recado_tests::harness::{DEADLINE, Ended, Tested, built, command, eventually};
    use serde_json::Value;
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
    use tokio::process::{Child, ChildStderr, ChildStdout, Command};
    use tokio::time::timeout;

    /// A running command, and everything that belongs to it.
    struct AwsLocal {
        child: Child,
        out: Lines<BufReader<ChildStdout>>,
        err: ChildStderr,
    }

    impl AwsLocal {
        fn start(options: &[&str]) -> anyhow::Result<Self> {
            // Everything is built: a build within a test would wait for the one that runs the tests.
            let mut run = command(built("xtask")?);
            run.args(["aws-local", "--no-build", "--json"]).args(options).stdout(Stdio::piped()).stderr(Stdio::piped());
            let mut child = run.spawn()?;
            let out = BufReader::new(child.stdout.take().context("it is piped")?).lines();
            let err = child.stderr.take().context("it is piped")?;
            Ok(Self { child, out, err })
        }

        async fn ready(&mut self) -> anyhow::Result<Ready> {
            let line = timeout(DEADLINE, self.out.next_line()).await.context("not ready in time")??;
            match line {
                Some(line) => Ok(Ready(serde_json::from_str(&line)?)),
                None => anyhow::bail!("it ended before it was ready: {}", self.complaints().await?),
            }
        }

        fn pid(&self) -> anyhow::Result<u32> {
            self.child.id().context("it ended before")
        }

        /// Its processes, and those of its processes.
        fn family(&self) -> anyhow::Result<Vec<Process>> {
            Process::family_of(self.pid()?)
        }

        async fn signal(&self, signal: &str) -> Tested {
            let pid = self.pid()?.to_string();
            ensure!(Command::new("kill").args([signal, &pid]).status().await?.success(), "kill failed");
            Ok(())
        }

        async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
            Ok(timeout(DEADLINE, self.child.wait()).await.context("it did not end")??)
        }

        async fn complaints(&mut self) -> anyhow::Result<String> {
            let mut text = String::new();
            self.err.read_to_string(&mut text).await?;
            Ok(text)
        }
    }

    /// What it said when it was ready.
    struct Ready(Value);

    impl Ready {
        fn text(&self, name: &str) -> anyhow::Result<&str> {
            self.0[name].as_str().with_context(|| format!("no `{name}` in {}", self.0))
        }

        /// A `recado` command in a shell that read the file of the environment.
        fn recado(&self, args: &[&str]) -> anyhow::Result<Command> {
            let mut shell = command(PathBuf::from("sh"));
            // The function of the file, not what is found on the path.
            shell.args(["-c", ". \"$0\" && recado \"$@\"", self.text("env")?]).args(args);
            Ok(shell)
        }

        /// What stays after a failure, for its logs.
        fn remove_folder(&self) -> Tested {
            let stack = PathBuf::from(self.text("stack")?);
            Ok(std::fs::remove_dir_all(stack.parent().context("a folder")?)?)
        }

        fn port(&self) -> anyhow::Result<SocketAddr> {
            Ok(self.text("endpoint")?.trim_start_matches("http://").parse()?)
        }
    }

    /// One of this machine.
    #[derive(Debug, Clone)]
    struct Process {
        pid: u32,
        parent: u32,
        group: u32,
        command: String,
    }

    impl Process {
        /// All that run; what is only waited for by nobody (a zombie) does not.
        fn all() -> anyhow::Result<Vec<Self>> {
            let ids = std::fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
            Ok(ids.filter_map(Self::read).collect())
        }

        /// Nothing where it is gone meanwhile.
        fn read(pid: u32) -> Option<Self> {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            // "1 (a name, with ) in it) S parent group …" (proc_pid_stat(5))
            let mut fields = stat.rsplit_once(") ")?.1.split(' ');
            let (state, parent, group) = (fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            let command = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            (state != "Z").then_some(Self { pid, parent, group, command })
        }

        fn family_of(pid: u32) -> anyhow::Result<Vec<Self>> {
            let all = Self::all()?;
            let mut family: BTreeMap<u32, Self> = BTreeMap::new();
            let mut open = vec![pid];
            while let Some(parent) = open.pop() {
                let children = all.iter().filter(|process| process.parent == parent && !family.contains_key(&process.pid));
                let children: Vec<_> = children.cloned().collect();
                open.extend(children.iter().map(|process| process.pid));
                family.extend(children.into_iter().map(|process| (process.pid, process)));
            }
            Ok(family.into_values().collect())
        }
    }

    /// Waits until none of them, and nobody of their groups, runs any more.
    async fn gone(family: &[Process]) -> Tested {
        let ids: BTreeSet<u32> = family.iter().flat_map(|process| [process.pid, process.group]).collect();
        // Ours among them, for a child that was seen before it had a group of its own.
        let here = Process::read(std::process::id()).context("we run")?.group;
        let left = || -> anyhow::Result<Vec<Process>> {
            let of_it = |process: &Process| ids.contains(&process.pid) || (process.group != here && ids.contains(&process.group));
            Ok(Process::all()?.into_iter().filter(of_it).collect())
        };
        let all_gone = eventually("nothing is left", async || Ok(left()?.is_empty().then_some(()))).await;
        all_gone.with_context(|| format!("left: {:?}", left().unwrap_or_default()))
    }

    fn find<'a>(family: &'a [Process], part: &str) -> anyhow::Result<&'a Process> {
        family.iter().find(|process| process.command.contains(part)).with_context(|| format!("no {part} in {family:?}"))
    }

    async fn ran(command: Command) -> Tested {
        let ended = Ended::of(command).await?;
        ensure!(ended.code == Some(0), "{ended:?}");
        Ok(())
    }

    #[tokio::test]
    async fn what_it_says_works_and_nothing_is_left_when_it_is_interrupted() -> Tested {
        let mut local = AwsLocal::start(&[])?;
        let ready = local.ready().await?;
        let listening = tokio::spawn(Ended::of(ready.recado(&["listen", "alice", "--count", "1", "--json"])?));
        let publish = ["publish", "--to", "alice", "--email", "alice@example.com", "--title", "It works here"];
        ran(ready.recado(&publish)?).await?;
        let listened = listening.await??;
        ensure!(listened.code == Some(0) && listened.out.contains("It works here"), "{listened:?}");
        let (http, mails) = (reqwest::Client::builder().timeout(DEADLINE).build()?, ready.text("mails")?);
        let mailed = async || Ok(http.get(mails).send().await?.text().await?.contains("Subject: It works here").then_some(()));
        eventually("the mail is shown", mailed).await?;

        let family = local.family()?;
        for part in ["emulator.py", "recado-dispatcher", "recado-email-worker", "bootstrap"] {
            find(&family, part)?;
        }
        let (port, folder) = (ready.port()?, PathBuf::from(ready.text("stack")?));
        local.signal("-INT").await?;
        let status = local.ended().await?;
        ensure!(status.success(), "{status}: {}", local.complaints().await?);
        gone(&family).await?;
        assert!(TcpStream::connect(port).is_err(), "somebody listens on {port}");
        assert!(!folder.exists(), "{} is left", folder.display());
        Ok(())
    }

    #[tokio::test]
    async fn it_ends_with_the_name_of_a_process_that_ended() -> Tested {
        let mut local = AwsLocal::start(&[])?;
        let ready = local.ready().await?;
        let family = local.family()?;
        // The process itself, and not the shell that watches it.
        let dispatcher =
            family.iter().find(|process| process.command.trim_end().ends_with("/recado-dispatcher") && !process.command.starts_with("sh "));
        let dispatcher = dispatcher.with_context(|| format!("no dispatcher in {family:?}"))?;
        ran(kill(dispatcher.pid)).await?;
        assert_eq!(local.ended().await?.code(), Some(1));
        let complaints = local.complaints().await?;
        assert!(complaints.contains("dispatcher ended by itself") && complaints.contains("dispatcher.log"), "{complaints}");
        gone(&family).await?;
        assert!(TcpStream::connect(ready.port()?).is_err());
        ready.remove_folder()
    }

    fn kill(pid: u32) -> Command {
        let mut kill = command(PathBuf::from("kill"));
        kill.args(["-KILL", &pid.to_string()]);
        kill
    }

    #[tokio::test]
    async fn it_can_be_ended_while_it_starts() -> Tested {
        let mut local = AwsLocal::start(&[])?;
        // Half way: the emulator runs, and nothing is deployed.
        let family = eventually("the emulator starts", async || {
            let family = local.family()?;
            Ok(family.iter().any(|process| process.command.contains("emulator.py")).then_some(family))
        })
        .await?;
        local.signal("-TERM").await?;
        assert_eq!(local.ended().await?.code(), Some(1));
        let complaints = local.complaints().await?;
        assert!(complaints.contains("not ready yet: stopped"), "{complaints}");
        gone(&family).await
    }

    #[tokio::test]
    async fn even_killed_it_leaves_nothing() -> Tested {
        let mut local = AwsLocal::start(&[])?;
        let ready = local.ready().await?;
        let family = local.family()?;
        local.signal("-KILL").await?;
        local.ended().await?;
        gone(&family).await?;
        assert!(TcpStream::connect(ready.port()?).is_err());
        // Only its folder: nobody was there to remove it.
        ready.remove_folder()
    }

    #[tokio::test]
    async fn no_function_asks_aws_for_anything_while_it_starts() -> Tested {
        let mut measure = command(built("xtask")?);
        measure.args(["init-time", "--profile", "emulator", "--starts", "1"]);
        let measured = Ended::of(measure).await?;
        ensure!(measured.code == Some(0) && measured.out.contains("| ws-connect |"), "{measured:?}");
        Ok(())
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_refused() -> Tested {
        let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
        let port = taken.local_addr()?.port().to_string();
        let mut local = AwsLocal::start(&["--port", &port])?;
        assert_eq!(local.ended().await?.code(), Some(1));
        let complaints = local.complaints().await?;
        assert!(complaints.contains(&format!("port {port} of this machine cannot be had")), "{complaints}");
        Ok(())
    }
}
