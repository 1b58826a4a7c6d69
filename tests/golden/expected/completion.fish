# fish completion for pyro, made by `pyro completion fish`. Use: pyro completion fish | source

# The words so far that are no options.
function __pyro_words
    set -l plain
    set -l words (commandline -opc)
    set -e words[1]
    for word in $words
        string match -q -- '-*' $word; or set -a plain $word
    end
    printf '%s\n' "$plain"
end
function __pyro_at
    test (__pyro_words) = "$argv"
end
function __pyro_in
    string match -q -- "$argv *" (__pyro_words)" "
end
# How many words there are behind the command's own.
function __pyro_place
    set -l plain (string split ' ' -- (__pyro_words))
    __pyro_in $argv[2..-1]; and test (count $plain) -eq (math (count $argv) - 1 + $argv[1])
end
# The n-th of all of them.
function __pyro_word
    set -l plain (string split ' ' -- (__pyro_words))
    test (count $plain) -ge $argv[1]; and echo $plain[$argv[1]]
end

complete -c pyro -f
complete -c pyro -n '__pyro_at' -s V -l version -d 'Show the version'
complete -c pyro -s h -l help -d 'Show help'
complete -c pyro -l json -d 'Print one JSON document'
complete -c pyro -l socket -r -F -d 'Socket of the daemon'
complete -c pyro -n '__pyro_at' -a env -d 'Environments: list, fetch, inspect and remove what VMs start from.'
complete -c pyro -n '__pyro_at' -a vm -d 'VMs one step at a time: create, start, exec, stop, delete.'
complete -c pyro -n '__pyro_at' -a workspace -d 'Workspaces: machines that stay, with your files in /workspace, to work in until they are deleted.'
complete -c pyro -n '__pyro_at' -a host -d 'Chat hosts: let Claude Code, Codex and OpenCode use pyro, by their own configuration files.'
complete -c pyro -n '__pyro_at' -a doctor -d 'Check the host: can it boot a guest, and is everything pyro needs in place?'
complete -c pyro -n '__pyro_at' -a prepare -d 'Make an environment ready for the fastest starts: install it, make its memory images, run something once.'
complete -c pyro -n '__pyro_at' -a run -d 'Start a microVM from an environment, run one command in it, and clean it up.'
complete -c pyro -n '__pyro_at' -a demo -d 'Prove the life cycle of a VM: create, start, exec `git --version`, delete; say what each step took.'
complete -c pyro -n '__pyro_at' -a bench -d 'Measure what VMs take on this host, beside other container runtimes that are installed.'
complete -c pyro -n '__pyro_at' -a completion -d 'Print a completion script for a shell.'
complete -c pyro -n '__pyro_at env' -a list -d 'List the environments of the catalog and of the cache.'
complete -c pyro -n '__pyro_at env' -a pull -d 'Fetch what a name means now and build its root disk. An installed one is checked, a broken one repaired.'
complete -c pyro -n '__pyro_at env' -a inspect -d 'Show one environment: its configuration, layers and files.'
complete -c pyro -n '__pyro_at env' -a prune -d 'Remove environments that no name, VM or workspace uses, broken installs and leftovers of pulls. What you imported or committed stays: see env remove.'
complete -c pyro -n '__pyro_at env' -a remove -d 'Take a name from an environment; the last one takes its files along.'
complete -c pyro -n '__pyro_at env' -a import -d 'Make an environment of a root file system\'s tar, an OCI layout or what docker save wrote. It is yours, and called @NAME.'
complete -c pyro -n '__pyro_at env' -a commit -d 'Make an environment of a workspace\'s disk as it is: all but /workspace and what is one machine\'s own. It is yours, and called @NAME.'
complete -c pyro -n '__pyro_at vm' -a create -d 'Create a VM from an environment without starting it. It lives until exec, delete or its TTL.'
complete -c pyro -n '__pyro_at vm' -a start -d 'Start a created VM and wait until it takes commands.'
complete -c pyro -n '__pyro_at vm' -a exec -d 'Run one command in a VM, starting it if needed; the VM is removed afterwards.'
complete -c pyro -n '__pyro_at vm' -a stop -d 'Stop a running VM. Its disk stays until it is deleted or expires.'
complete -c pyro -n '__pyro_at vm' -a delete -d 'Delete a VM and everything it holds, in whatever state it is.'
complete -c pyro -n '__pyro_at vm' -a status -d 'Show one VM.'
complete -c pyro -n '__pyro_at vm' -a network-info -d 'Show the network of a VM.'
complete -c pyro -n '__pyro_at vm' -a list -d 'List your VMs, newest first; root sees everybody\'s.'
complete -c pyro -n '__pyro_at vm' -a reap-expired -d 'Remove your VMs whose TTL is over now, instead of a moment later.'
complete -c pyro -n '__pyro_at workspace' -a file -d 'Files of a workspace: list, read, write.'
complete -c pyro -n '__pyro_at workspace' -a patch -d 'Patches to the files of a workspace.'
complete -c pyro -n '__pyro_at workspace' -a sync -d 'Files of this host into a workspace.'
complete -c pyro -n '__pyro_at workspace' -a create -d 'Create a workspace: a machine that stays, with a disk of its own and your files in /workspace.'
complete -c pyro -n '__pyro_at workspace' -a list -d 'List your workspaces, newest activity first.'
complete -c pyro -n '__pyro_at workspace' -a status -d 'Show one workspace.'
complete -c pyro -n '__pyro_at workspace' -a summary -d 'What happened in a workspace since its last reset: commands and how they ended, files that changed.'
complete -c pyro -n '__pyro_at workspace' -a update -d 'Change the name, the labels or the lifetime of a workspace.'
complete -c pyro -n '__pyro_at workspace' -a start -d 'Start a stopped workspace. Commands start one by themselves.'
complete -c pyro -n '__pyro_at workspace' -a stop -d 'Stop a workspace: its commands end, what is on its disk stays.'
complete -c pyro -n '__pyro_at workspace' -a exec -d 'Run a command in a workspace, starting it if it is stopped. It goes on when its client leaves; cancelling the call ends it.'
complete -c pyro -n '__pyro_at workspace' -a ps -d 'List the commands of a workspace since its last reset, newest first.'
complete -c pyro -n '__pyro_at workspace' -a attach -d 'Take up the streams of a command that runs. Leaving does not end it.'
complete -c pyro -n '__pyro_at workspace' -a kill -d 'Send a signal to a command; KILL ends all of its processes.'
complete -c pyro -n '__pyro_at workspace' -a logs -d 'The output of a command, of one that ended or of one that runs.'
complete -c pyro -n '__pyro_at workspace' -a diff -d 'What changed in /workspace since the workspace was created: a patch in git\'s format that `git apply` takes.'
complete -c pyro -n '__pyro_at workspace' -a export -d 'Take a file or a directory out of a workspace.'
complete -c pyro -n '__pyro_at workspace' -a reset -d 'Bring a workspace back to its baseline: a fresh disk with the files it was created with. Its changes, commands and their output are gone; id, name and labels stay.'
complete -c pyro -n '__pyro_at workspace' -a delete -d 'Delete a workspace and everything in it, in whatever state it is.'
complete -c pyro -n '__pyro_at workspace' -a reap-expired -d 'Delete your workspaces that are past their time now, without waiting for the daemon\'s own timer.'
complete -c pyro -n '__pyro_at workspace file' -a list -d 'List a directory of a workspace.'
complete -c pyro -n '__pyro_at workspace file' -a read -d 'Read a file of a workspace.'
complete -c pyro -n '__pyro_at workspace file' -a write -d 'Write a file of a workspace: replaced at once or not at all; missing directories are made.'
complete -c pyro -n '__pyro_at workspace patch' -a apply -d 'Apply a patch to /workspace, to all of its files or to none. Exact: a hunk that does not fit is refused and told.'
complete -c pyro -n '__pyro_at workspace sync' -a push -d 'Put files of the client\'s side into a workspace: all of them or none.'
complete -c pyro -n '__pyro_at host' -a connect -d 'Configure a chat host to start `pyro mcp serve`. Done twice it is done once; everything else in its file stays as it is.'
complete -c pyro -n '__pyro_at host' -a disconnect -d 'Take pyro out of a chat host\'s configuration.'
complete -c pyro -n '__pyro_at host' -a print-config -d 'Print what `pyro host connect` would put into an empty file, to paste elsewhere.'
complete -c pyro -n '__pyro_at host' -a doctor -d 'Check a chat host\'s configuration, and that the server it would start answers and reaches the daemon.'
complete -c pyro -n '__pyro_at host' -a repair -d 'Mend what `pyro host doctor` finds wrong in the configuration. The server\'s options stay as configured unless any are given.'

complete -c pyro -n '__pyro_in doctor' -l environment -x -a '(pyro __complete environment 2>/dev/null)' -d 'Also check that this environment is installed and complete'


complete -c pyro -n '__pyro_in env pull' -l force -d 'Pull again even if it is installed and complete'
complete -c pyro -n '__pyro_place 0 env pull' -a '(pyro __complete environment 2>/dev/null)'

complete -c pyro -n '__pyro_in env inspect' -l packages -d 'List the packages too'
complete -c pyro -n '__pyro_place 0 env inspect' -a '(pyro __complete environment 2>/dev/null)'

complete -c pyro -n '__pyro_in prepare' -l force -d 'Make the memory images again even if they are there'
complete -c pyro -n '__pyro_place 0 prepare' -a '(pyro __complete environment 2>/dev/null)'

complete -c pyro -n '__pyro_in env prune' -l all -d 'Also remove environments with a name that can be pulled again'
complete -c pyro -n '__pyro_in env prune' -l dry-run -d 'Remove nothing, say what would go'
complete -c pyro -n '__pyro_in env prune' -l older-than -x -d 'Only what was not used for so long, for example 7d'

complete -c pyro -n '__pyro_in env remove' -l force -d 'By digest: also one with several names'
complete -c pyro -n '__pyro_place 0 env remove' -a '(pyro __complete environment 2>/dev/null)'

complete -c pyro -n '__pyro_in env import' -l format -x -a 'rootfs oci-archive docker-archive' -d 'What it is; default: told from its content'
complete -c pyro -n '__pyro_in env import' -l tag -x -d 'Which image, of several'
complete -c pyro -n '__pyro_in env import' -l force -d 'Replace what has that name'
complete -c pyro -n '__pyro_in env import' -s u -l user -x -d 'Root file system: user that commands run as'
complete -c pyro -n '__pyro_in env import' -s w -l workdir -x -d 'Root file system: directory that commands start in'
complete -c pyro -n '__pyro_in env import' -s e -l env -x -d 'Root file system: environment variable'
complete -c pyro -n '__pyro_in env import' -l entrypoint -x -d 'Root file system: a word of its entry point'
complete -c pyro -n '__pyro_in env import' -l cmd -x -d 'Root file system: a word of its default command'
complete -c pyro -n '__pyro_place 1 env import' -F

complete -c pyro -n '__pyro_in env commit' -l force -d 'Replace what has that name'
complete -c pyro -n '__pyro_place 0 env commit' -a '(pyro __complete workspace 2>/dev/null)'

complete -c pyro -n '__pyro_in run' -l vcpu-count -x -d 'Virtual CPUs'
complete -c pyro -n '__pyro_in run' -l mem-mib -x -d 'Memory in MiB'
complete -c pyro -n '__pyro_in run' -l disk-gib -x -d 'Disk size in GiB'
complete -c pyro -n '__pyro_in run' -l ttl-seconds -x -d 'Time after which the VM is removed whatever it does'
complete -c pyro -n '__pyro_in run' -l network -d 'Give the VM a network, where this host\'s configuration allows one'
complete -c pyro -n '__pyro_in run' -l allow-host-compat -d 'Where no guest can boot, use a sandbox on the host instead of failing'
complete -c pyro -n '__pyro_in run' -l timeout-seconds -x -d 'Time the command may take from its start in the guest; 0: none'
complete -c pyro -n '__pyro_in run' -s i -l interactive -d 'Pass on standard input'
complete -c pyro -n '__pyro_in run' -s t -l tty -d 'Give the command a terminal'
complete -c pyro -n '__pyro_in run' -s e -l env -x -d 'Set an environment variable'
complete -c pyro -n '__pyro_in run' -s w -l workdir -x -d 'Directory to start in; default: the image\'s'
complete -c pyro -n '__pyro_in run' -s u -l user -x -d 'User to run as, name or uid[:gid]; default: the image\'s'
complete -c pyro -n '__pyro_in run' -l start -x -a 'cold restored spare' -d 'The fastest way to start that may be used; cold boots a kernel of its own'
complete -c pyro -n '__pyro_place 0 run' -a '(pyro __complete environment 2>/dev/null)'
complete -c pyro -n '__pyro_in run; and not __pyro_at run' -F

complete -c pyro -n '__pyro_in vm create' -l vcpu-count -x -d 'Virtual CPUs'
complete -c pyro -n '__pyro_in vm create' -l mem-mib -x -d 'Memory in MiB'
complete -c pyro -n '__pyro_in vm create' -l disk-gib -x -d 'Disk size in GiB'
complete -c pyro -n '__pyro_in vm create' -l ttl-seconds -x -d 'Time after which the VM is removed whatever it does'
complete -c pyro -n '__pyro_in vm create' -l network -d 'Give the VM a network, where this host\'s configuration allows one'
complete -c pyro -n '__pyro_in vm create' -l allow-host-compat -d 'Where no guest can boot, use a sandbox on the host instead of failing'
complete -c pyro -n '__pyro_in vm create' -l id-only -d 'Print just the id'
complete -c pyro -n '__pyro_place 0 vm create' -a '(pyro __complete environment 2>/dev/null)'

complete -c pyro -n '__pyro_place 0 vm start' -a '(pyro __complete vm 2>/dev/null)'

complete -c pyro -n '__pyro_in vm exec' -l timeout-seconds -x -d 'Time the command may take from its start in the guest; 0: none'
complete -c pyro -n '__pyro_in vm exec' -s i -l interactive -d 'Pass on standard input'
complete -c pyro -n '__pyro_in vm exec' -s t -l tty -d 'Give the command a terminal'
complete -c pyro -n '__pyro_in vm exec' -s e -l env -x -d 'Set an environment variable'
complete -c pyro -n '__pyro_in vm exec' -s w -l workdir -x -d 'Directory to start in; default: the image\'s'
complete -c pyro -n '__pyro_in vm exec' -s u -l user -x -d 'User to run as, name or uid[:gid]; default: the image\'s'
complete -c pyro -n '__pyro_place 0 vm exec' -a '(pyro __complete vm 2>/dev/null)'
complete -c pyro -n '__pyro_in vm exec; and not __pyro_at vm exec' -F

complete -c pyro -n '__pyro_place 0 vm stop' -a '(pyro __complete vm 2>/dev/null)'

complete -c pyro -n '__pyro_place 0 vm delete' -a '(pyro __complete vm 2>/dev/null)'

complete -c pyro -n '__pyro_place 0 vm status' -a '(pyro __complete vm 2>/dev/null)'

complete -c pyro -n '__pyro_place 0 vm network-info' -a '(pyro __complete vm 2>/dev/null)'



complete -c pyro -n '__pyro_in workspace create' -l vcpu-count -x -d 'Virtual CPUs'
complete -c pyro -n '__pyro_in workspace create' -l mem-mib -x -d 'Memory in MiB'
complete -c pyro -n '__pyro_in workspace create' -l disk-gib -x -d 'Disk size in GiB'
complete -c pyro -n '__pyro_in workspace create' -l name -x -d 'Name to call it by, unique among your workspaces'
complete -c pyro -n '__pyro_in workspace create' -l label -x -d 'Attach a label'
complete -c pyro -n '__pyro_in workspace create' -l network-policy -x -a 'off egress egress+published-ports' -d 'What of the network it may reach'
complete -c pyro -n '__pyro_in workspace create' -l ttl-seconds -x -d 'Delete it after so long; default: it lives until it is deleted'
complete -c pyro -n '__pyro_in workspace create' -l idle-seconds -x -d 'Stop it after so long without use; the next command starts it again'
complete -c pyro -n '__pyro_in workspace create' -l start -x -a 'cold restored spare' -d 'The fastest way to start that may be used; cold boots a kernel of its own'
complete -c pyro -n '__pyro_in workspace create' -l seed-path -r -F -d 'Fill /workspace from this directory, .tar, .tar.gz, .tgz, .tar.zst or Git checkout (its tracked files and a clean .git)'
complete -c pyro -n '__pyro_in workspace create' -l id-only -d 'Print just the id'
complete -c pyro -n '__pyro_place 0 workspace create' -a '(pyro __complete environment 2>/dev/null)'

complete -c pyro -n '__pyro_in workspace list' -l label -x -d 'Only those with this label'

complete -c pyro -n '__pyro_in workspace status' -l wait-seconds -x -d 'While it is creating, wait so long for that to end'
complete -c pyro -n '__pyro_place 0 workspace status' -a '(pyro __complete workspace 2>/dev/null)'

complete -c pyro -n '__pyro_place 0 workspace summary' -a '(pyro __complete workspace 2>/dev/null)'

complete -c pyro -n '__pyro_in workspace update' -l name -x -d 'The new name'
complete -c pyro -n '__pyro_in workspace update' -l clear-name -d 'Take its name away'
complete -c pyro -n '__pyro_in workspace update' -l label -x -d 'Attach or change a label'
complete -c pyro -n '__pyro_in workspace update' -l clear-label -x -d 'Take a label away'
complete -c pyro -n '__pyro_in workspace update' -l ttl-seconds -x -d 'Delete it so long from now; 0: never'
complete -c pyro -n '__pyro_in workspace update' -l idle-seconds -x -d 'Stop it after so long without use; 0: never'
complete -c pyro -n '__pyro_place 0 workspace update' -a '(pyro __complete workspace 2>/dev/null)'

complete -c pyro -n '__pyro_place 0 workspace start' -a '(pyro __complete workspace 2>/dev/null)'

complete -c pyro -n '__pyro_place 0 workspace stop' -a '(pyro __complete workspace 2>/dev/null)'

complete -c pyro -n '__pyro_in workspace exec' -l timeout-seconds -x -d 'Time the command may take from its start in the guest; 0: none'
complete -c pyro -n '__pyro_in workspace exec' -s i -l interactive -d 'Pass on standard input'
complete -c pyro -n '__pyro_in workspace exec' -s t -l tty -d 'Give the command a terminal'
complete -c pyro -n '__pyro_in workspace exec' -s e -l env -x -d 'Set an environment variable'
complete -c pyro -n '__pyro_in workspace exec' -s w -l cwd -x -d 'Directory to start in; relative to /workspace, which is the default'
complete -c pyro -n '__pyro_in workspace exec' -s u -l user -x -d 'User to run as, name or uid[:gid]; default: the image\'s'
complete -c pyro -n '__pyro_in workspace exec' -s d -l detach -d 'Answer once it runs; see workspace logs and attach'
complete -c pyro -n '__pyro_place 0 workspace exec' -a '(pyro __complete workspace 2>/dev/null)'
complete -c pyro -n '__pyro_in workspace exec; and not __pyro_at workspace exec' -F

complete -c pyro -n '__pyro_in workspace ps' -s a -l all -d 'Those that ended too'
complete -c pyro -n '__pyro_place 0 workspace ps' -a '(pyro __complete workspace 2>/dev/null)'

complete -c pyro -n '__pyro_in workspace attach' -l stdout-offset -x -d 'First byte of standard output wanted'
complete -c pyro -n '__pyro_in workspace attach' -l stderr-offset -x -d 'First byte of standard error wanted'
complete -c pyro -n '__pyro_in workspace attach' -l no-stdin -d 'Leave its standard input alone'
complete -c pyro -n '__pyro_place 0 workspace attach' -a '(pyro __complete workspace 2>/dev/null)'
complete -c pyro -n '__pyro_place 1 workspace attach' -a '(pyro __complete exec (__pyro_word 3) 2>/dev/null)'

complete -c pyro -n '__pyro_in workspace kill' -s s -l signal -x -a 'TERM KILL INT HUP QUIT USR1 USR2 STOP CONT' -d 'Which'
complete -c pyro -n '__pyro_place 0 workspace kill' -a '(pyro __complete workspace 2>/dev/null)'
complete -c pyro -n '__pyro_place 1 workspace kill' -a '(pyro __complete exec (__pyro_word 3) 2>/dev/null)'

complete -c pyro -n '__pyro_in workspace logs' -l exec -x -a '(pyro __complete exec (__pyro_word 3) 2>/dev/null)' -d 'The command; default: the last one'
complete -c pyro -n '__pyro_in workspace logs' -s f -l follow -d 'Go on until the command ends'
complete -c pyro -n '__pyro_in workspace logs' -l stdout-offset -x -d 'First byte of standard output wanted'
complete -c pyro -n '__pyro_in workspace logs' -l stderr-offset -x -d 'First byte of standard error wanted'
complete -c pyro -n '__pyro_in workspace logs' -l wait-seconds -x -d 'Without follow: wait so long for something new, or for its end'
complete -c pyro -n '__pyro_place 0 workspace logs' -a '(pyro __complete workspace 2>/dev/null)'

complete -c pyro -n '__pyro_in workspace file list' -s r -l recursive -d 'And everything below it'
complete -c pyro -n '__pyro_in workspace file list' -l limit -x -d 'At most so many entries'
complete -c pyro -n '__pyro_in workspace file list' -l cursor -x -d 'next_cursor of the answer before'
complete -c pyro -n '__pyro_place 0 workspace file list' -a '(pyro __complete workspace 2>/dev/null)'

complete -c pyro -n '__pyro_in workspace file read' -l offset -x -d 'First byte'
complete -c pyro -n '__pyro_in workspace file read' -l max-bytes -x -d 'At most so many bytes'
complete -c pyro -n '__pyro_in workspace file read' -l content-only -d 'Print just the bytes, without the line about the file on standard error'
complete -c pyro -n '__pyro_place 0 workspace file read' -a '(pyro __complete workspace 2>/dev/null)'

complete -c pyro -n '__pyro_in workspace file write' -l mode -x -d 'Permissions in octal; default: those it has, 0644 for a new one'
complete -c pyro -n '__pyro_in workspace file write' -l text -x -d 'Write this text, as it is'
complete -c pyro -n '__pyro_in workspace file write' -l text-file -r -F -d 'Write what is in this file of this host'
complete -c pyro -n '__pyro_place 0 workspace file write' -a '(pyro __complete workspace 2>/dev/null)'

complete -c pyro -n '__pyro_in workspace patch apply' -l patch -x -d 'The patch itself'
complete -c pyro -n '__pyro_in workspace patch apply' -l patch-file -r -F -d 'The patch is in this file of this host'
complete -c pyro -n '__pyro_place 0 workspace patch apply' -a '(pyro __complete workspace 2>/dev/null)'

complete -c pyro -n '__pyro_in workspace diff' -l verify -d 'Read and compare every file, whatever the guest\'s file system says of them'
complete -c pyro -n '__pyro_in workspace diff' -l max-bytes -x -d 'At most so much of a patch; files for which it has no room are named'
complete -c pyro -n '__pyro_place 0 workspace diff' -a '(pyro __complete workspace 2>/dev/null)'

complete -c pyro -n '__pyro_in workspace sync push' -l dest -x -d 'Directory in /workspace to put them in; made if missing'
complete -c pyro -n '__pyro_place 0 workspace sync push' -a '(pyro __complete workspace 2>/dev/null)'
complete -c pyro -n '__pyro_place 1 workspace sync push' -F

complete -c pyro -n '__pyro_in workspace export' -s o -l output -r -F -d 'File or directory to write; ending in .tar.zst: an archive; ending in .patch: what changed, as workspace diff has it'
complete -c pyro -n '__pyro_in workspace export' -l force -d 'Replace files that are there'
complete -c pyro -n '__pyro_place 0 workspace export' -a '(pyro __complete workspace 2>/dev/null)'

complete -c pyro -n '__pyro_place 0 workspace reset' -a '(pyro __complete workspace 2>/dev/null)'

complete -c pyro -n '__pyro_place 0 workspace delete' -a '(pyro __complete workspace 2>/dev/null)'


complete -c pyro -n '__pyro_place 0 demo' -a '(pyro __complete environment 2>/dev/null)'

complete -c pyro -n '__pyro_in bench' -s n -l runs -x -d 'Runs of each kind, in turn; of cold ones a quarter'
complete -c pyro -n '__pyro_in bench' -l rows -x -d 'What to measure, separated by commas'
complete -c pyro -n '__pyro_in bench' -l density -x -d 'Also start that many VMs and say how much memory each has to itself'
complete -c pyro -n '__pyro_in bench' -l command -x -d 'The command of all runs, its words separated by blanks'
complete -c pyro -n '__pyro_place 0 bench' -a '(pyro __complete environment 2>/dev/null)'

complete -c pyro -n '__pyro_in host connect' -l scope -x -a 'user project local' -d 'user: all of your projects (default); project: a file in this one, for all who work on it; local (Claude Code): you, in this directory'
complete -c pyro -n '__pyro_in host connect' -l name -x -d 'The server\'s name in the host'
complete -c pyro -n '__pyro_in host connect' -l profile -x -a 'vm-run workspace-core workspace-full' -d 'Which tools the model has; else workspace-core'
complete -c pyro -n '__pyro_in host connect' -l mode -x -a 'repro-fix inspect' -d 'Tools and descriptions for one task, instead of a profile'
complete -c pyro -n '__pyro_in host connect' -l environment -x -a '(pyro __complete environment 2>/dev/null)' -d 'What machines are made of unless a call says otherwise'
complete -c pyro -n '__pyro_in host connect' -l project-path -r -F -d 'Seed workspaces from this checkout or directory; else from the one the host starts the server in'
complete -c pyro -n '__pyro_in host connect' -l repo-url -x -d 'Seed workspaces from a clone of this repository'
complete -c pyro -n '__pyro_in host connect' -l repo-ref -x -d 'Branch, tag or commit of it'
complete -c pyro -n '__pyro_in host connect' -l no-project-source -d 'Seed workspaces from nothing'
complete -c pyro -n '__pyro_in host connect' -l allow-path -r -F -d 'The model may name paths below this one too'
complete -c pyro -n '__pyro_in host connect' -l allow-host-compat -d 'The model may ask for a sandbox on the host where no guest can boot'
complete -c pyro -n '__pyro_in host connect' -l dry-run -d 'Say what would change, and change nothing'
complete -c pyro -n '__pyro_place 0 host connect' -a 'claude-code codex opencode'

complete -c pyro -n '__pyro_in host disconnect' -l scope -x -a 'user project local' -d 'user, project or local; else wherever the server is configured'
complete -c pyro -n '__pyro_in host disconnect' -l name -x -d 'The server\'s name in the host'
complete -c pyro -n '__pyro_in host disconnect' -l dry-run -d 'Say what would change, and change nothing'
complete -c pyro -n '__pyro_place 0 host disconnect' -a 'claude-code codex opencode'

complete -c pyro -n '__pyro_in host print-config' -l scope -x -a 'user project local' -d 'user: all of your projects (default); project: a file in this one, for all who work on it; local (Claude Code): you, in this directory'
complete -c pyro -n '__pyro_in host print-config' -l name -x -d 'The server\'s name in the host'
complete -c pyro -n '__pyro_in host print-config' -l profile -x -a 'vm-run workspace-core workspace-full' -d 'Which tools the model has; else workspace-core'
complete -c pyro -n '__pyro_in host print-config' -l mode -x -a 'repro-fix inspect' -d 'Tools and descriptions for one task, instead of a profile'
complete -c pyro -n '__pyro_in host print-config' -l environment -x -a '(pyro __complete environment 2>/dev/null)' -d 'What machines are made of unless a call says otherwise'
complete -c pyro -n '__pyro_in host print-config' -l project-path -r -F -d 'Seed workspaces from this checkout or directory; else from the one the host starts the server in'
complete -c pyro -n '__pyro_in host print-config' -l repo-url -x -d 'Seed workspaces from a clone of this repository'
complete -c pyro -n '__pyro_in host print-config' -l repo-ref -x -d 'Branch, tag or commit of it'
complete -c pyro -n '__pyro_in host print-config' -l no-project-source -d 'Seed workspaces from nothing'
complete -c pyro -n '__pyro_in host print-config' -l allow-path -r -F -d 'The model may name paths below this one too'
complete -c pyro -n '__pyro_in host print-config' -l allow-host-compat -d 'The model may ask for a sandbox on the host where no guest can boot'
complete -c pyro -n '__pyro_place 0 host print-config' -a 'claude-code codex opencode'

complete -c pyro -n '__pyro_in host doctor' -l scope -x -a 'user project local' -d 'user, project or local; else wherever the server is configured'
complete -c pyro -n '__pyro_in host doctor' -l name -x -d 'The server\'s name in the host'
complete -c pyro -n '__pyro_place 0 host doctor' -a 'claude-code codex opencode'

complete -c pyro -n '__pyro_in host repair' -l scope -x -a 'user project local' -d 'user, project or local; else wherever the server is configured'
complete -c pyro -n '__pyro_in host repair' -l name -x -d 'The server\'s name in the host'
complete -c pyro -n '__pyro_in host repair' -l profile -x -a 'vm-run workspace-core workspace-full' -d 'Which tools the model has; else workspace-core'
complete -c pyro -n '__pyro_in host repair' -l mode -x -a 'repro-fix inspect' -d 'Tools and descriptions for one task, instead of a profile'
complete -c pyro -n '__pyro_in host repair' -l environment -x -a '(pyro __complete environment 2>/dev/null)' -d 'What machines are made of unless a call says otherwise'
complete -c pyro -n '__pyro_in host repair' -l project-path -r -F -d 'Seed workspaces from this checkout or directory; else from the one the host starts the server in'
complete -c pyro -n '__pyro_in host repair' -l repo-url -x -d 'Seed workspaces from a clone of this repository'
complete -c pyro -n '__pyro_in host repair' -l repo-ref -x -d 'Branch, tag or commit of it'
complete -c pyro -n '__pyro_in host repair' -l no-project-source -d 'Seed workspaces from nothing'
complete -c pyro -n '__pyro_in host repair' -l allow-path -r -F -d 'The model may name paths below this one too'
complete -c pyro -n '__pyro_in host repair' -l allow-host-compat -d 'The model may ask for a sandbox on the host where no guest can boot'
complete -c pyro -n '__pyro_in host repair' -l dry-run -d 'Say what would change, and change nothing'
complete -c pyro -n '__pyro_place 0 host repair' -a 'claude-code codex opencode'

complete -c pyro -n '__pyro_place 0 completion' -a 'bash zsh fish'
