# bash completion for pyro, made by `pyro completion bash`. Use: source <(pyro completion bash)

_pyro_commands() {
    case $1 in
        '') echo 'env vm doctor prepare run demo bench completion' ;;
        'env') echo 'list pull inspect prune' ;;
        'vm') echo 'create start exec stop delete status network-info list reap-expired' ;;
    esac
}

_pyro_flags() {
    case $1 in
        'doctor') echo '--environment --json --socket --help' ;;
        'env list') echo '--json --socket --help' ;;
        'env pull') echo '--force --json --socket --help' ;;
        'env inspect') echo '--json --socket --help' ;;
        'prepare') echo '--force --json --socket --help' ;;
        'env prune') echo '--all --json --socket --help' ;;
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
        'demo') echo '--json --socket --help' ;;
        'bench') echo '--runs --rows --density --command --json --socket --help' ;;
        'completion') echo '--json --socket --help' ;;
        *) echo '--json --socket --help --version' ;;
    esac
}

# What the value of a flag is; fails for flags without one.
_pyro_value() {
    case "$1 $2" in
        *' --socket') echo file ;;
        'doctor --environment') echo environment ;;
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
        'bench --runs'|'bench -n') echo none ;;
        'bench --rows') echo none ;;
        'bench --density') echo none ;;
        'bench --command') echo none ;;
        *) return 1 ;;
    esac
}

_pyro_place() {
    case "$1 $2" in
        'env pull 0') echo environment ;;
        'env inspect 0') echo environment ;;
        'prepare 0') echo environment ;;
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
        'demo 0') echo environment ;;
        'bench 0') echo environment ;;
        'completion 0') echo '=bash zsh fish' ;;
        *) echo none ;;
    esac
}

_pyro() {
    local line=${COMP_LINE:0:COMP_POINT} words=() command= kind= places=0 i word
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
        environment|vm)
            while IFS=$'\t' read -r word _; do
                [[ $word == "$cur"* ]] && COMPREPLY+=("$word")
            done < <(pyro __complete "$kind" 2>/dev/null)
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
