#compdef pyro
# zsh completion for pyro, made by `pyro completion zsh`. Use: source <(pyro completion zsh)

_pyro_dynamic() {
    local -a found
    local name about
    while IFS=$'\t' read -r name about; do
        found+=("${name//:/\\:}:$about")
    done < <(pyro __complete "$@" 2>/dev/null)
    _describe $1 found
}
_pyro_environments() { _pyro_dynamic environment }
_pyro_vms() { _pyro_dynamic vm }
_pyro_workspaces() { _pyro_dynamic workspace }
# Those of the first word behind the command that is no option.
_pyro_execs() {
    local -a plain=("${(@)words[2,CURRENT-1]:#-*}")
    _pyro_dynamic exec "$plain[1]"
}

_pyro_doctor() {
    _arguments -s -S \
        --environment='[Also check that this environment is installed and complete]:ENV:_pyro_environments' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]'
}

_pyro_env_list() {
    _arguments -s -S \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]'
}

_pyro_env_pull() {
    _arguments -s -S \
        --force'[Pull again even if it is installed and complete]' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:ENVIRONMENT:_pyro_environments'
}

_pyro_env_inspect() {
    _arguments -s -S \
        --packages'[List the packages too]' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:ENVIRONMENT:_pyro_environments'
}

_pyro_prepare() {
    _arguments -s -S \
        --force'[Make the memory images again even if they are there]' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:ENVIRONMENT:_pyro_environments'
}

_pyro_env_prune() {
    _arguments -s -S \
        --all'[Also remove environments with a name that can be pulled again]' \
        --dry-run'[Remove nothing, say what would go]' \
        --older-than='[Only what was not used for so long, for example 7d]:DURATION: ' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]'
}

_pyro_env_remove() {
    _arguments -s -S \
        --force'[By digest\: also one with several names]' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:ENVIRONMENT:_pyro_environments'
}

_pyro_env_import() {
    _arguments -s -S \
        --format='[What it is; default\: told from its content]:FORMAT:(rootfs oci-archive docker-archive)' \
        --tag='[Which image, of several]:TAG: ' \
        --force'[Replace what has that name]' \
        '(-u --user)'{-u+,--user=}'[Root file system\: user that commands run as]:USER: ' \
        '(-w --workdir)'{-w+,--workdir=}'[Root file system\: directory that commands start in]:DIR: ' \
        '*'{-e+,--env=}'[Root file system\: environment variable]:K=V: ' \
        '*'--entrypoint='[Root file system\: a word of its entry point]:WORD: ' \
        '*'--cmd='[Root file system\: a word of its default command]:WORD: ' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:NAME: ' \
        '2:FILE|DIR|-:_files'
}

_pyro_env_commit() {
    _arguments -s -S \
        --force'[Replace what has that name]' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:WORKSPACE:_pyro_workspaces' \
        '2:NAME: '
}

_pyro_run() {
    _arguments -s -S \
        --vcpu-count='[Virtual CPUs]:N: ' \
        --mem-mib='[Memory in MiB]:N: ' \
        --disk-gib='[Disk size in GiB]:N: ' \
        --ttl-seconds='[Time after which the VM is removed whatever it does]:SECONDS: ' \
        --network'[Give the VM a network, where this host'\''s configuration allows one]' \
        --allow-host-compat'[Where no guest can boot, use a sandbox on the host instead of failing]' \
        --timeout-seconds='[Time the command may take from its start in the guest; 0\: none]:SECONDS: ' \
        '(-i --interactive)'{-i,--interactive}'[Pass on standard input]' \
        '(-t --tty)'{-t,--tty}'[Give the command a terminal]' \
        '*'{-e+,--env=}'[Set an environment variable]:K=V: ' \
        '(-w --workdir)'{-w+,--workdir=}'[Directory to start in; default\: the image'\''s]:DIR: ' \
        '(-u --user)'{-u+,--user=}'[User to run as, name or uid\[\:gid\]; default\: the image'\''s]:USER: ' \
        --start='[The fastest way to start that may be used; cold boots a kernel of its own]:START:(cold restored spare)' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:ENVIRONMENT:_pyro_environments' \
        '*::command:_normal'
}

_pyro_vm_create() {
    _arguments -s -S \
        --vcpu-count='[Virtual CPUs]:N: ' \
        --mem-mib='[Memory in MiB]:N: ' \
        --disk-gib='[Disk size in GiB]:N: ' \
        --ttl-seconds='[Time after which the VM is removed whatever it does]:SECONDS: ' \
        --network'[Give the VM a network, where this host'\''s configuration allows one]' \
        --allow-host-compat'[Where no guest can boot, use a sandbox on the host instead of failing]' \
        --id-only'[Print just the id]' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:ENVIRONMENT:_pyro_environments'
}

_pyro_vm_start() {
    _arguments -s -S \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:VM:_pyro_vms'
}

_pyro_vm_exec() {
    _arguments -s -S \
        --timeout-seconds='[Time the command may take from its start in the guest; 0\: none]:SECONDS: ' \
        '(-i --interactive)'{-i,--interactive}'[Pass on standard input]' \
        '(-t --tty)'{-t,--tty}'[Give the command a terminal]' \
        '*'{-e+,--env=}'[Set an environment variable]:K=V: ' \
        '(-w --workdir)'{-w+,--workdir=}'[Directory to start in; default\: the image'\''s]:DIR: ' \
        '(-u --user)'{-u+,--user=}'[User to run as, name or uid\[\:gid\]; default\: the image'\''s]:USER: ' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:VM:_pyro_vms' \
        '*::command:_normal'
}

_pyro_vm_stop() {
    _arguments -s -S \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:VM:_pyro_vms'
}

_pyro_vm_delete() {
    _arguments -s -S \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:VM:_pyro_vms'
}

_pyro_vm_status() {
    _arguments -s -S \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:VM:_pyro_vms'
}

_pyro_vm_network_info() {
    _arguments -s -S \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:VM:_pyro_vms'
}

_pyro_vm_list() {
    _arguments -s -S \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]'
}

_pyro_vm_reap_expired() {
    _arguments -s -S \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]'
}

_pyro_workspace_create() {
    _arguments -s -S \
        --vcpu-count='[Virtual CPUs]:N: ' \
        --mem-mib='[Memory in MiB]:N: ' \
        --disk-gib='[Disk size in GiB]:N: ' \
        --name='[Name to call it by, unique among your workspaces]:NAME: ' \
        '*'--label='[Attach a label]:K=V: ' \
        --network-policy='[What of the network it may reach]:NETWORK-POLICY:(off egress egress+published-ports)' \
        --ttl-seconds='[Delete it after so long; default\: it lives until it is deleted]:SECONDS: ' \
        --idle-seconds='[Stop it after so long without use; the next command starts it again]:SECONDS: ' \
        --start='[The fastest way to start that may be used; cold boots a kernel of its own]:START:(cold restored spare)' \
        --seed-path='[Fill /workspace from this directory, .tar, .tar.gz, .tgz, .tar.zst or Git checkout (its tracked files and a clean .git)]:PATH:_files' \
        --id-only'[Print just the id]' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:ENVIRONMENT:_pyro_environments'
}

_pyro_workspace_list() {
    _arguments -s -S \
        '*'--label='[Only those with this label]:K=V: ' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]'
}

_pyro_workspace_status() {
    _arguments -s -S \
        --wait-seconds='[While it is creating, wait so long for that to end]:SECONDS: ' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:WORKSPACE:_pyro_workspaces'
}

_pyro_workspace_summary() {
    _arguments -s -S \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:WORKSPACE:_pyro_workspaces'
}

_pyro_workspace_update() {
    _arguments -s -S \
        --name='[The new name]:NAME: ' \
        --clear-name'[Take its name away]' \
        '*'--label='[Attach or change a label]:K=V: ' \
        '*'--clear-label='[Take a label away]:K: ' \
        --ttl-seconds='[Delete it so long from now; 0\: never]:SECONDS: ' \
        --idle-seconds='[Stop it after so long without use; 0\: never]:SECONDS: ' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:WORKSPACE:_pyro_workspaces'
}

_pyro_workspace_start() {
    _arguments -s -S \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:WORKSPACE:_pyro_workspaces'
}

_pyro_workspace_stop() {
    _arguments -s -S \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:WORKSPACE:_pyro_workspaces'
}

_pyro_workspace_exec() {
    _arguments -s -S \
        --timeout-seconds='[Time the command may take from its start in the guest; 0\: none]:SECONDS: ' \
        '(-i --interactive)'{-i,--interactive}'[Pass on standard input]' \
        '(-t --tty)'{-t,--tty}'[Give the command a terminal]' \
        '*'{-e+,--env=}'[Set an environment variable]:K=V: ' \
        '(-w --cwd)'{-w+,--cwd=}'[Directory to start in; relative to /workspace, which is the default]:DIR: ' \
        '(-u --user)'{-u+,--user=}'[User to run as, name or uid\[\:gid\]; default\: the image'\''s]:USER: ' \
        '(-d --detach)'{-d,--detach}'[Answer once it runs; see workspace logs and attach]' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:WORKSPACE:_pyro_workspaces' \
        '*::command:_normal'
}

_pyro_workspace_ps() {
    _arguments -s -S \
        '(-a --all)'{-a,--all}'[Those that ended too]' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:WORKSPACE:_pyro_workspaces'
}

_pyro_workspace_attach() {
    _arguments -s -S \
        --stdout-offset='[First byte of standard output wanted]:BYTE: ' \
        --stderr-offset='[First byte of standard error wanted]:BYTE: ' \
        --no-stdin'[Leave its standard input alone]' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:WORKSPACE:_pyro_workspaces' \
        '2:EXEC:_pyro_execs'
}

_pyro_workspace_kill() {
    _arguments -s -S \
        '(-s --signal)'{-s+,--signal=}'[Which]:SIGNAL:(TERM KILL INT HUP QUIT USR1 USR2 STOP CONT)' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:WORKSPACE:_pyro_workspaces' \
        '2:EXEC:_pyro_execs'
}

_pyro_workspace_logs() {
    _arguments -s -S \
        --exec='[The command; default\: the last one]:EXEC:_pyro_execs' \
        '(-f --follow)'{-f,--follow}'[Go on until the command ends]' \
        --stdout-offset='[First byte of standard output wanted]:BYTE: ' \
        --stderr-offset='[First byte of standard error wanted]:BYTE: ' \
        --wait-seconds='[Without follow\: wait so long for something new, or for its end]:SECONDS: ' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:WORKSPACE:_pyro_workspaces'
}

_pyro_workspace_file_list() {
    _arguments -s -S \
        '(-r --recursive)'{-r,--recursive}'[And everything below it]' \
        --limit='[At most so many entries]:N: ' \
        --cursor='[next_cursor of the answer before]:CURSOR: ' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:WORKSPACE:_pyro_workspaces' \
        '2:PATH: '
}

_pyro_workspace_file_read() {
    _arguments -s -S \
        --offset='[First byte]:BYTE: ' \
        --max-bytes='[At most so many bytes]:BYTES: ' \
        --content-only'[Print just the bytes, without the line about the file on standard error]' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:WORKSPACE:_pyro_workspaces' \
        '2:PATH: '
}

_pyro_workspace_file_write() {
    _arguments -s -S \
        --mode='[Permissions in octal; default\: those it has, 0644 for a new one]:MODE: ' \
        --text='[Write this text, as it is]:TEXT: ' \
        --text-file='[Write what is in this file of this host]:PATH:_files' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:WORKSPACE:_pyro_workspaces' \
        '2:PATH: ' \
        '3:-: '
}

_pyro_workspace_patch_apply() {
    _arguments -s -S \
        --patch='[The patch itself]:TEXT: ' \
        --patch-file='[The patch is in this file of this host]:PATH:_files' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:WORKSPACE:_pyro_workspaces' \
        '2:-: '
}

_pyro_workspace_diff() {
    _arguments -s -S \
        --verify'[Read and compare every file, whatever the guest'\''s file system says of them]' \
        --max-bytes='[At most so much of a patch; files for which it has no room are named]:BYTES: ' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:WORKSPACE:_pyro_workspaces'
}

_pyro_workspace_sync_push() {
    _arguments -s -S \
        --dest='[Directory in /workspace to put them in; made if missing]:DIR: ' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:WORKSPACE:_pyro_workspaces' \
        '2:PATH:_files'
}

_pyro_workspace_export() {
    _arguments -s -S \
        '(-o --output)'{-o+,--output=}'[File or directory to write; ending in .tar.zst\: an archive; ending in .patch\: what changed, as workspace diff has it]:PATH:_files' \
        --force'[Replace files that are there]' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:WORKSPACE:_pyro_workspaces' \
        '2:PATH: '
}

_pyro_workspace_reset() {
    _arguments -s -S \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:WORKSPACE:_pyro_workspaces'
}

_pyro_workspace_delete() {
    _arguments -s -S \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:WORKSPACE:_pyro_workspaces'
}

_pyro_workspace_reap_expired() {
    _arguments -s -S \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]'
}

_pyro_demo() {
    _arguments -s -S \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:ENVIRONMENT:_pyro_environments'
}

_pyro_bench() {
    _arguments -s -S \
        '(-n --runs)'{-n+,--runs=}'[Runs of each kind, in turn; of cold ones a quarter]:N: ' \
        --rows='[What to measure, separated by commas]:ROW,ROW: ' \
        --density='[Also start that many VMs and say how much memory each has to itself]:N: ' \
        --command='[The command of all runs, its words separated by blanks]:CMD: ' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:ENVIRONMENT:_pyro_environments'
}

_pyro_host_connect() {
    _arguments -s -S \
        --scope='[user\: all of your projects (default); project\: a file in this one, for all who work on it; local (Claude Code)\: you, in this directory]:SCOPE:(user project local)' \
        --name='[The server'\''s name in the host]:NAME: ' \
        --profile='[Which tools the model has; else workspace-core]:PROFILE:(vm-run workspace-core workspace-full)' \
        --mode='[Tools and descriptions for one task, instead of a profile]:MODE:(repro-fix inspect)' \
        --environment='[What machines are made of unless a call says otherwise]:ENVIRONMENT:_pyro_environments' \
        --project-path='[Seed workspaces from this checkout or directory; else from the one the host starts the server in]:PATH:_files' \
        --repo-url='[Seed workspaces from a clone of this repository]:URL: ' \
        --repo-ref='[Branch, tag or commit of it]:REF: ' \
        --no-project-source'[Seed workspaces from nothing]' \
        '*'--allow-path='[The model may name paths below this one too]:PATH:_files' \
        --allow-host-compat'[The model may ask for a sandbox on the host where no guest can boot]' \
        --dry-run'[Say what would change, and change nothing]' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:HOST:(claude-code codex opencode)'
}

_pyro_host_disconnect() {
    _arguments -s -S \
        --scope='[user, project or local; else wherever the server is configured]:SCOPE:(user project local)' \
        --name='[The server'\''s name in the host]:NAME: ' \
        --dry-run'[Say what would change, and change nothing]' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:HOST:(claude-code codex opencode)'
}

_pyro_host_print_config() {
    _arguments -s -S \
        --scope='[user\: all of your projects (default); project\: a file in this one, for all who work on it; local (Claude Code)\: you, in this directory]:SCOPE:(user project local)' \
        --name='[The server'\''s name in the host]:NAME: ' \
        --profile='[Which tools the model has; else workspace-core]:PROFILE:(vm-run workspace-core workspace-full)' \
        --mode='[Tools and descriptions for one task, instead of a profile]:MODE:(repro-fix inspect)' \
        --environment='[What machines are made of unless a call says otherwise]:ENVIRONMENT:_pyro_environments' \
        --project-path='[Seed workspaces from this checkout or directory; else from the one the host starts the server in]:PATH:_files' \
        --repo-url='[Seed workspaces from a clone of this repository]:URL: ' \
        --repo-ref='[Branch, tag or commit of it]:REF: ' \
        --no-project-source'[Seed workspaces from nothing]' \
        '*'--allow-path='[The model may name paths below this one too]:PATH:_files' \
        --allow-host-compat'[The model may ask for a sandbox on the host where no guest can boot]' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:HOST:(claude-code codex opencode)'
}

_pyro_host_doctor() {
    _arguments -s -S \
        --scope='[user, project or local; else wherever the server is configured]:SCOPE:(user project local)' \
        --name='[The server'\''s name in the host]:NAME: ' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:HOST:(claude-code codex opencode)'
}

_pyro_host_repair() {
    _arguments -s -S \
        --scope='[user, project or local; else wherever the server is configured]:SCOPE:(user project local)' \
        --name='[The server'\''s name in the host]:NAME: ' \
        --profile='[Which tools the model has; else workspace-core]:PROFILE:(vm-run workspace-core workspace-full)' \
        --mode='[Tools and descriptions for one task, instead of a profile]:MODE:(repro-fix inspect)' \
        --environment='[What machines are made of unless a call says otherwise]:ENVIRONMENT:_pyro_environments' \
        --project-path='[Seed workspaces from this checkout or directory; else from the one the host starts the server in]:PATH:_files' \
        --repo-url='[Seed workspaces from a clone of this repository]:URL: ' \
        --repo-ref='[Branch, tag or commit of it]:REF: ' \
        --no-project-source'[Seed workspaces from nothing]' \
        '*'--allow-path='[The model may name paths below this one too]:PATH:_files' \
        --allow-host-compat'[The model may ask for a sandbox on the host where no guest can boot]' \
        --dry-run'[Say what would change, and change nothing]' \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:HOST:(claude-code codex opencode)'
}

_pyro_completion() {
    _arguments -s -S \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:SHELL:(bash zsh fish)'
}

_pyro_env() {
    local curcontext="$curcontext" state line
    local -a commands=(
        'list:List the environments of the catalog and of the cache.'
        'pull:Fetch what a name means now and build its root disk. An installed one is checked, a broken one repaired.'
        'inspect:Show one environment\: its configuration, layers and files.'
        'prune:Remove environments that no name, VM or workspace uses, broken installs and leftovers of pulls. What you imported or committed stays\: see env remove.'
        'remove:Take a name from an environment; the last one takes its files along.'
        'import:Make an environment of a root file system'\''s tar, an OCI layout or what docker save wrote. It is yours, and called @NAME.'
        'commit:Make an environment of a workspace'\''s disk as it is\: all but /workspace and what is one machine'\''s own. It is yours, and called @NAME.'
    )
    _arguments -C \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:command:->command' \
        '*::argument:->argument'
    case $state in
        command) _describe command commands ;;
        argument)
            case $words[1] in
                list) _pyro_env_list ;;
                pull) _pyro_env_pull ;;
                inspect) _pyro_env_inspect ;;
                prune) _pyro_env_prune ;;
                remove) _pyro_env_remove ;;
                import) _pyro_env_import ;;
                commit) _pyro_env_commit ;;
            esac
            ;;
    esac
}

_pyro_vm() {
    local curcontext="$curcontext" state line
    local -a commands=(
        'create:Create a VM from an environment without starting it. It lives until exec, delete or its TTL.'
        'start:Start a created VM and wait until it takes commands.'
        'exec:Run one command in a VM, starting it if needed; the VM is removed afterwards.'
        'stop:Stop a running VM. Its disk stays until it is deleted or expires.'
        'delete:Delete a VM and everything it holds, in whatever state it is.'
        'status:Show one VM.'
        'network-info:Show the network of a VM.'
        'list:List your VMs, newest first; root sees everybody'\''s.'
        'reap-expired:Remove your VMs whose TTL is over now, instead of a moment later.'
    )
    _arguments -C \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:command:->command' \
        '*::argument:->argument'
    case $state in
        command) _describe command commands ;;
        argument)
            case $words[1] in
                create) _pyro_vm_create ;;
                start) _pyro_vm_start ;;
                exec) _pyro_vm_exec ;;
                stop) _pyro_vm_stop ;;
                delete) _pyro_vm_delete ;;
                status) _pyro_vm_status ;;
                network-info) _pyro_vm_network_info ;;
                list) _pyro_vm_list ;;
                reap-expired) _pyro_vm_reap_expired ;;
            esac
            ;;
    esac
}

_pyro_workspace() {
    local curcontext="$curcontext" state line
    local -a commands=(
        'file:Files of a workspace\: list, read, write.'
        'patch:Patches to the files of a workspace.'
        'sync:Files of this host into a workspace.'
        'create:Create a workspace\: a machine that stays, with a disk of its own and your files in /workspace.'
        'list:List your workspaces, newest activity first.'
        'status:Show one workspace.'
        'summary:What happened in a workspace since its last reset\: commands and how they ended, files that changed.'
        'update:Change the name, the labels or the lifetime of a workspace.'
        'start:Start a stopped workspace. Commands start one by themselves.'
        'stop:Stop a workspace\: its commands end, what is on its disk stays.'
        'exec:Run a command in a workspace, starting it if it is stopped. It goes on when its client leaves; cancelling the call ends it.'
        'ps:List the commands of a workspace since its last reset, newest first.'
        'attach:Take up the streams of a command that runs. Leaving does not end it.'
        'kill:Send a signal to a command; KILL ends all of its processes.'
        'logs:The output of a command, of one that ended or of one that runs.'
        'diff:What changed in /workspace since the workspace was created\: a patch in git'\''s format that `git apply` takes.'
        'export:Take a file or a directory out of a workspace.'
        'reset:Bring a workspace back to its baseline\: a fresh disk with the files it was created with. Its changes, commands and their output are gone; id, name and labels stay.'
        'delete:Delete a workspace and everything in it, in whatever state it is.'
        'reap-expired:Delete your workspaces that are past their time now, without waiting for the daemon'\''s own timer.'
    )
    _arguments -C \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:command:->command' \
        '*::argument:->argument'
    case $state in
        command) _describe command commands ;;
        argument)
            case $words[1] in
                file) _pyro_workspace_file ;;
                patch) _pyro_workspace_patch ;;
                sync) _pyro_workspace_sync ;;
                create) _pyro_workspace_create ;;
                list) _pyro_workspace_list ;;
                status) _pyro_workspace_status ;;
                summary) _pyro_workspace_summary ;;
                update) _pyro_workspace_update ;;
                start) _pyro_workspace_start ;;
                stop) _pyro_workspace_stop ;;
                exec) _pyro_workspace_exec ;;
                ps) _pyro_workspace_ps ;;
                attach) _pyro_workspace_attach ;;
                kill) _pyro_workspace_kill ;;
                logs) _pyro_workspace_logs ;;
                diff) _pyro_workspace_diff ;;
                export) _pyro_workspace_export ;;
                reset) _pyro_workspace_reset ;;
                delete) _pyro_workspace_delete ;;
                reap-expired) _pyro_workspace_reap_expired ;;
            esac
            ;;
    esac
}

_pyro_workspace_file() {
    local curcontext="$curcontext" state line
    local -a commands=(
        'list:List a directory of a workspace.'
        'read:Read a file of a workspace.'
        'write:Write a file of a workspace\: replaced at once or not at all; missing directories are made.'
    )
    _arguments -C \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:command:->command' \
        '*::argument:->argument'
    case $state in
        command) _describe command commands ;;
        argument)
            case $words[1] in
                list) _pyro_workspace_file_list ;;
                read) _pyro_workspace_file_read ;;
                write) _pyro_workspace_file_write ;;
            esac
            ;;
    esac
}

_pyro_workspace_patch() {
    local curcontext="$curcontext" state line
    local -a commands=(
        'apply:Apply a patch to /workspace, to all of its files or to none. Exact\: a hunk that does not fit is refused and told.'
    )
    _arguments -C \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:command:->command' \
        '*::argument:->argument'
    case $state in
        command) _describe command commands ;;
        argument)
            case $words[1] in
                apply) _pyro_workspace_patch_apply ;;
            esac
            ;;
    esac
}

_pyro_workspace_sync() {
    local curcontext="$curcontext" state line
    local -a commands=(
        'push:Put files of the client'\''s side into a workspace\: all of them or none.'
    )
    _arguments -C \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:command:->command' \
        '*::argument:->argument'
    case $state in
        command) _describe command commands ;;
        argument)
            case $words[1] in
                push) _pyro_workspace_sync_push ;;
            esac
            ;;
    esac
}

_pyro_host() {
    local curcontext="$curcontext" state line
    local -a commands=(
        'connect:Configure a chat host to start `pyro mcp serve`. Done twice it is done once; everything else in its file stays as it is.'
        'disconnect:Take pyro out of a chat host'\''s configuration.'
        'print-config:Print what `pyro host connect` would put into an empty file, to paste elsewhere.'
        'doctor:Check a chat host'\''s configuration, and that the server it would start answers and reaches the daemon.'
        'repair:Mend what `pyro host doctor` finds wrong in the configuration. The server'\''s options stay as configured unless any are given.'
    )
    _arguments -C \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '1:command:->command' \
        '*::argument:->argument'
    case $state in
        command) _describe command commands ;;
        argument)
            case $words[1] in
                connect) _pyro_host_connect ;;
                disconnect) _pyro_host_disconnect ;;
                print-config) _pyro_host_print_config ;;
                doctor) _pyro_host_doctor ;;
                repair) _pyro_host_repair ;;
            esac
            ;;
    esac
}

_pyro() {
    local curcontext="$curcontext" state line
    local -a commands=(
        'env:Environments\: list, fetch, inspect and remove what VMs start from.'
        'vm:VMs one step at a time\: create, start, exec, stop, delete.'
        'workspace:Workspaces\: machines that stay, with your files in /workspace, to work in until they are deleted.'
        'host:Chat hosts\: let Claude Code, Codex and OpenCode use pyro, by their own configuration files.'
        'doctor:Check the host\: can it boot a guest, and is everything pyro needs in place?'
        'prepare:Make an environment ready for the fastest starts\: install it, make its memory images, run something once.'
        'run:Start a microVM from an environment, run one command in it, and clean it up.'
        'demo:Prove the life cycle of a VM\: create, start, exec `git --version`, delete; say what each step took.'
        'bench:Measure what VMs take on this host, beside other container runtimes that are installed.'
        'completion:Print a completion script for a shell.'
    )
    _arguments -C \
        --json'[Print one JSON document]' \
        --socket='[Socket of the daemon]:PATH:_files' \
        '(-h --help)'{-h,--help}'[Show help]' \
        '(-V --version)'{-V,--version}'[Show the version]' \
        '1:command:->command' \
        '*::argument:->argument'
    case $state in
        command) _describe command commands ;;
        argument)
            case $words[1] in
                env) _pyro_env ;;
                vm) _pyro_vm ;;
                workspace) _pyro_workspace ;;
                host) _pyro_host ;;
                doctor) _pyro_doctor ;;
                prepare) _pyro_prepare ;;
                run) _pyro_run ;;
                demo) _pyro_demo ;;
                bench) _pyro_bench ;;
                completion) _pyro_completion ;;
            esac
            ;;
    esac
}

if [[ $funcstack[1] == _pyro ]]; then _pyro "$@"; else compdef _pyro pyro; fi
