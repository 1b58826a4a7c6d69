# bash completion for pyro, made by `pyro completion bash`. Use: source <(pyro completion bash)

_pyro_commands() {
    case $1 in
        '') echo 'env vm workspace host doctor prepare run demo bench completion' ;;
        'env') echo 'list pull inspect prune remove import commit' ;;
        'vm') echo 'create start exec stop delete status network-info list reap-expired' ;;
        'workspace') echo 'file patch sync create list status summary update start stop exec ps attach kill logs diff export reset delete reap-expired' ;;
        'workspace file') echo 'list read write' ;;
        'workspace patch') echo 'apply' ;;
        'workspace sync') echo 'push' ;;
        'host') echo 'connect disconnect print-config doctor repair' ;;
    esac
}

_pyro_flags() {
    case $1 in
        'doctor') echo '--environment --json --socket --help' ;;
        'env list') echo '--json --socket --help' ;;
        'env pull') echo '--force --json --socket --help' ;;
        'env inspect') echo '--packages --json --socket --help' ;;
        'prepare') echo '--force --json --socket --help' ;;
        'env prune') echo '--all --dry-run --older-than --json --socket --help' ;;
        'env remove') echo '--force --json --socket --help' ;;
        'env import') echo '--format --tag --force --user --workdir --env --entrypoint --cmd --json --socket --help' ;;
        'env commit') echo '--force --json --socket --help' ;;
        'run') echo '--vcpu-count --mem-mib --disk-gib --ttl-seconds --network --allow-host-compat --timeout-seconds --interactive --tty --env --workdir --user --start --json --socket --help' ;;
        'vm create') echo '--vcpu-count --mem-mib --disk-gib --ttl-seconds --network --allow-host-compat --id-only --json --socket --help' ;;
        'vm start') echo '--json --socket --help' ;;
        'vm exec') echo '--timeout-seconds --interactive --tty --env --workdir --user --json --socket --help' ;;
        'vm stop') echo '--json --socket --help' ;;
        'vm delete') echo '--json --socket --help' ;;
        'vm status') echo '--json --socket --help' ;;
        'vm network-info') echo '--json --socket --help' ;;
        'vm list') echo '--json --socket --help' ;;
        'vm reap-expired') echo '--json --socket --help' ;;
        'workspace create') echo '--vcpu-count --mem-mib --disk-gib --name --label --network-policy --ttl-seconds --idle-seconds --start --seed-path --id-only --json --socket --help' ;;
        'workspace list') echo '--label --json --socket --help' ;;
        'workspace status') echo '--wait-seconds --json --socket --help' ;;
        'workspace summary') echo '--json --socket --help' ;;
        'workspace update') echo '--name --clear-name --label --clear-label --ttl-seconds --idle-seconds --json --socket --help' ;;
        'workspace start') echo '--json --socket --help' ;;
        'workspace stop') echo '--json --socket --help' ;;
        'workspace exec') echo '--timeout-seconds --interactive --tty --env --cwd --user --detach --json --socket --help' ;;
        'workspace ps') echo '--all --json --socket --help' ;;
        'workspace attach') echo '--stdout-offset --stderr-offset --no-stdin --json --socket --help' ;;
        'workspace kill') echo '--signal --json --socket --help' ;;
        'workspace logs') echo '--exec --follow --stdout-offset --stderr-offset --wait-seconds --json --socket --help' ;;
        'workspace file list') echo '--recursive --limit --cursor --json --socket --help' ;;
        'workspace file read') echo '--offset --max-bytes --content-only --json --socket --help' ;;
        'workspace file write') echo '--mode --text --text-file --json --socket --help' ;;
        'workspace patch apply') echo '--patch --patch-file --json --socket --help' ;;
        'workspace diff') echo '--verify --max-bytes --json --socket --help' ;;
        'workspace sync push') echo '--dest --json --socket --help' ;;
        'workspace export') echo '--output --force --json --socket --help' ;;
        'workspace reset') echo '--json --socket --help' ;;
        'workspace delete') echo '--json --socket --help' ;;
        'workspace reap-expired') echo '--json --socket --help' ;;
        'demo') echo '--json --socket --help' ;;
        'bench') echo '--runs --rows --density --command --json --socket --help' ;;
        'host connect') echo '--scope --name --profile --mode --environment --project-path --repo-url --repo-ref --no-project-source --allow-path --allow-host-compat --dry-run --json --socket --help' ;;
        'host disconnect') echo '--scope --name --dry-run --json --socket --help' ;;
        'host print-config') echo '--scope --name --profile --mode --environment --project-path --repo-url --repo-ref --no-project-source --allow-path --allow-host-compat --json --socket --help' ;;
        'host doctor') echo '--scope --name --json --socket --help' ;;
        'host repair') echo '--scope --name --profile --mode --environment --project-path --repo-url --repo-ref --no-project-source --allow-path --allow-host-compat --dry-run --json --socket --help' ;;
        'completion') echo '--json --socket --help' ;;
        *) echo '--json --socket --help --version' ;;
    esac
}

# What the value of a flag is; fails for flags without one.
_pyro_value() {
    case "$1 $2" in
        *' --socket') echo file ;;
        'doctor --environment') echo environment ;;
        'env prune --older-than') echo none ;;
        'env import --format') echo '=rootfs oci-archive docker-archive' ;;
        'env import --tag') echo none ;;
        'env import --user'|'env import -u') echo none ;;
        'env import --workdir'|'env import -w') echo none ;;
        'env import --env'|'env import -e') echo none ;;
        'env import --entrypoint') echo none ;;
        'env import --cmd') echo none ;;
        'run --vcpu-count') echo none ;;
        'run --mem-mib') echo none ;;
        'run --disk-gib') echo none ;;
        'run --ttl-seconds') echo none ;;
        'run --timeout-seconds') echo none ;;
        'run --env'|'run -e') echo none ;;
        'run --workdir'|'run -w') echo none ;;
        'run --user'|'run -u') echo none ;;
        'run --start') echo '=cold restored spare' ;;
        'vm create --vcpu-count') echo none ;;
        'vm create --mem-mib') echo none ;;
        'vm create --disk-gib') echo none ;;
        'vm create --ttl-seconds') echo none ;;
        'vm exec --timeout-seconds') echo none ;;
        'vm exec --env'|'vm exec -e') echo none ;;
        'vm exec --workdir'|'vm exec -w') echo none ;;
        'vm exec --user'|'vm exec -u') echo none ;;
        'workspace create --vcpu-count') echo none ;;
        'workspace create --mem-mib') echo none ;;
        'workspace create --disk-gib') echo none ;;
        'workspace create --name') echo none ;;
        'workspace create --label') echo none ;;
        'workspace create --network-policy') echo '=off egress egress+published-ports' ;;
        'workspace create --ttl-seconds') echo none ;;
        'workspace create --idle-seconds') echo none ;;
        'workspace create --start') echo '=cold restored spare' ;;
        'workspace create --seed-path') echo file ;;
        'workspace list --label') echo none ;;
        'workspace status --wait-seconds') echo none ;;
        'workspace update --name') echo none ;;
        'workspace update --label') echo none ;;
        'workspace update --clear-label') echo none ;;
        'workspace update --ttl-seconds') echo none ;;
        'workspace update --idle-seconds') echo none ;;
        'workspace exec --timeout-seconds') echo none ;;
        'workspace exec --env'|'workspace exec -e') echo none ;;
        'workspace exec --cwd'|'workspace exec -w') echo none ;;
        'workspace exec --user'|'workspace exec -u') echo none ;;
        'workspace attach --stdout-offset') echo none ;;
        'workspace attach --stderr-offset') echo none ;;
        'workspace kill --signal'|'workspace kill -s') echo '=TERM KILL INT HUP QUIT USR1 USR2 STOP CONT' ;;
        'workspace logs --exec') echo exec ;;
        'workspace logs --stdout-offset') echo none ;;
        'workspace logs --stderr-offset') echo none ;;
        'workspace logs --wait-seconds') echo none ;;
        'workspace file list --limit') echo none ;;
        'workspace file list --cursor') echo none ;;
        'workspace file read --offset') echo none ;;
        'workspace file read --max-bytes') echo none ;;
        'workspace file write --mode') echo none ;;
        'workspace file write --text') echo none ;;
        'workspace file write --text-file') echo file ;;
        'workspace patch apply --patch') echo none ;;
        'workspace patch apply --patch-file') echo file ;;
        'workspace diff --max-bytes') echo none ;;
        'workspace sync push --dest') echo none ;;
        'workspace export --output'|'workspace export -o') echo file ;;
        'bench --runs'|'bench -n') echo none ;;
        'bench --rows') echo none ;;
        'bench --density') echo none ;;
        'bench --command') echo none ;;
        'host connect --scope') echo '=user project local' ;;
        'host connect --name') echo none ;;
        'host connect --profile') echo '=vm-run workspace-core workspace-full' ;;
        'host connect --mode') echo '=repro-fix inspect' ;;
        'host connect --environment') echo environment ;;
        'host connect --project-path') echo file ;;
        'host connect --repo-url') echo none ;;
        'host connect --repo-ref') echo none ;;
        'host connect --allow-path') echo file ;;
        'host disconnect --scope') echo '=user project local' ;;
        'host disconnect --name') echo none ;;
        'host print-config --scope') echo '=user project local' ;;
        'host print-config --name') echo none ;;
        'host print-config --profile') echo '=vm-run workspace-core workspace-full' ;;
        'host print-config --mode') echo '=repro-fix inspect' ;;
        'host print-config --environment') echo environment ;;
        'host print-config --project-path') echo file ;;
        'host print-config --repo-url') echo none ;;
        'host print-config --repo-ref') echo none ;;
        'host print-config --allow-path') echo file ;;
        'host doctor --scope') echo '=user project local' ;;
        'host doctor --name') echo none ;;
        'host repair --scope') echo '=user project local' ;;
        'host repair --name') echo none ;;
        'host repair --profile') echo '=vm-run workspace-core workspace-full' ;;
        'host repair --mode') echo '=repro-fix inspect' ;;
        'host repair --environment') echo environment ;;
        'host repair --project-path') echo file ;;
        'host repair --repo-url') echo none ;;
        'host repair --repo-ref') echo none ;;
        'host repair --allow-path') echo file ;;
        *) return 1 ;;
    esac
}

_pyro_place() {
    case "$1 $2" in
        'env pull 0') echo environment ;;
        'env inspect 0') echo environment ;;
        'prepare 0') echo environment ;;
        'env remove 0') echo environment ;;
        'env import 0') echo none ;;
        'env import 1') echo file ;;
        'env commit 0') echo workspace ;;
        'env commit 1') echo none ;;
        'run 0') echo environment ;;
        'run '*) echo file ;;
        'vm create 0') echo environment ;;
        'vm start 0') echo vm ;;
        'vm exec 0') echo vm ;;
        'vm exec '*) echo file ;;
        'vm stop 0') echo vm ;;
        'vm delete 0') echo vm ;;
        'vm status 0') echo vm ;;
        'vm network-info 0') echo vm ;;
        'workspace create 0') echo environment ;;
        'workspace status 0') echo workspace ;;
        'workspace summary 0') echo workspace ;;
        'workspace update 0') echo workspace ;;
        'workspace start 0') echo workspace ;;
        'workspace stop 0') echo workspace ;;
        'workspace exec 0') echo workspace ;;
        'workspace exec '*) echo file ;;
        'workspace ps 0') echo workspace ;;
        'workspace attach 0') echo workspace ;;
        'workspace attach 1') echo exec ;;
        'workspace kill 0') echo workspace ;;
        'workspace kill 1') echo exec ;;
        'workspace logs 0') echo workspace ;;
        'workspace file list 0') echo workspace ;;
        'workspace file list 1') echo none ;;
        'workspace file read 0') echo workspace ;;
        'workspace file read 1') echo none ;;
        'workspace file write 0') echo workspace ;;
        'workspace file write 1') echo none ;;
        'workspace file write 2') echo none ;;
        'workspace patch apply 0') echo workspace ;;
        'workspace patch apply 1') echo none ;;
        'workspace diff 0') echo workspace ;;
        'workspace sync push 0') echo workspace ;;
        'workspace sync push 1') echo file ;;
        'workspace export 0') echo workspace ;;
        'workspace export 1') echo none ;;
        'workspace reset 0') echo workspace ;;
        'workspace delete 0') echo workspace ;;
        'demo 0') echo environment ;;
        'bench 0') echo environment ;;
        'host connect 0') echo '=claude-code codex opencode' ;;
        'host disconnect 0') echo '=claude-code codex opencode' ;;
        'host print-config 0') echo '=claude-code codex opencode' ;;
        'host doctor 0') echo '=claude-code codex opencode' ;;
        'host repair 0') echo '=claude-code codex opencode' ;;
        'completion 0') echo '=bash zsh fish' ;;
        *) echo none ;;
    esac
}

_pyro() {
    local line=${COMP_LINE:0:COMP_POINT} words=() command= kind= places=0 first= i word
    COMPREPLY=()
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    local last=$((${#words[@]} - 1))
    local cur=${words[last]}
    for ((i = 1; i < last; i++)); do
        word=${words[i]}
        if [[ -n $kind ]]; then
            kind=
        elif [[ $word == -- ]]; then
            return
        elif [[ $word == -* ]]; then
            kind=$(_pyro_value "$command" "$word")
        elif [[ " $(_pyro_commands "$command") " == *" $word "* ]]; then
            command=${command:+$command }$word
        else
            [[ $places -gt 0 ]] || first=$word
            places=$((places + 1))
        fi
    done

    if [[ -z $kind ]]; then
        if [[ $cur == -* ]]; then
            kind="=$(_pyro_flags "$command")"
        elif [[ -n $(_pyro_commands "$command") ]]; then
            kind="=$(_pyro_commands "$command")"
        else
            kind=$(_pyro_place "$command" "$places")
        fi
    fi
    case $kind in
        =*) for word in ${kind#=}; do [[ $word == "$cur"* ]] && COMPREPLY+=("$word"); done ;;
        environment|vm|workspace|exec)
            while IFS=$'\t' read -r word _; do
                [[ $word == "$cur"* ]] && COMPREPLY+=("$word")
            done < <(pyro __complete "$kind" "$first" 2>/dev/null)
            ;;
        none) compopt +o default +o bashdefault 2>/dev/null ;;
    esac
    # Bash takes a colon for the end of a word; only what follows it is replaced.
    if [[ $cur == *:* && $COMP_WORDBREAKS == *:* ]]; then
        local prefix=${cur%"${cur##*:}"}
        COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
    fi
}
complete -o bashdefault -o default -F _pyro pyro
