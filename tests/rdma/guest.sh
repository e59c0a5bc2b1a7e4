# The tests, run inside the guest. Every line for a person begins with "guest: "; the exit status is that of all.
# $choice and $address may be set to try the script itself on a machine without RDMA (choice=tcp address=127.0.0.1).
token=5f0e1d2c3b4a59687786958493a2b1c0ff0e1d2c3b4a59687786958493a2b1c0
choice=${choice:-rdma}
address=${address:-10.77.0.1}
out=$(mktemp -d)
failures=0

# waits until a file has a line with the words; prints the line
wait_for() { # file words [seconds]
    tries=$(( ${3:-20} * 10 ))
    while [ $tries -gt 0 ]; do
        line=$(grep -m 1 -- "$2" "$1" 2> /dev/null) && { echo "$line"; return 0; }
        tries=$((tries - 1))
        sleep 0.1
    done
    echo "guest:   no '$2' in $1 within ${3:-20} s"
    return 1
}

# starts a worker; sets $worker and $port
serve() { # name arguments…
    name=$1; shift
    transport-peer serve --token $token --listen $address:0 "$@" > $out/$name.out 2> $out/$name.log &
    worker=$!
    port_of $name
}

port_of() { # name
    line=$(wait_for $out/$1.out listening) || return 1
    port=$(echo "$line" | sed "s/.*$address:\([0-9]*\).*/\1/")
}

# runs a trainer's command to its end
peer() { # command name arguments…
    command=$1; name=$2; shift 2
    transport-peer "$command" --token $token "$@" > $out/$name.out 2> $out/$name.log
}

pull() { # name arguments…
    name=$1; shift
    peer pull $name --choice $choice "$@"
}

# starts a trainer; sets $trainer
start_pull() { # name arguments…
    name=$1; shift
    transport-peer pull --token $token --choice $choice "$@" > $out/$name.out 2> $out/$name.log &
    trainer=$!
}

case_of() { # name function
    since=$(cut -d' ' -f1 /proc/uptime)
    rm -f $out/*.out $out/*.log
    if $2; then verdict=ok; else
        verdict=FAILED
        failures=$((failures + 1))
        for file in $out/*.out $out/*.log; do tail -n 12 "$file" | sed "s|^|guest:   ${file##*/}: |" | cut -c -400; done
    fi
    kill -9 $(jobs -p) 2> /dev/null
    wait 2> /dev/null
    echo "guest: $verdict  $1  ($(echo "$(cut -d' ' -f1 /proc/uptime) $since" | awk '{printf "%.1f s", $1 - $2}'))"
}

the_doctor_sees_the_device() {
    transport-peer doctor > $out/doctor.out
    grep -q 'rxe0 port 1, ::ffff:10.77.0.1 (RoCE v2)' $out/doctor.out
}

bodies_of_1_4_and_16_mb_arrive_right() {
    sizes=1000000,4194304,16777216,4096,1,65537
    serve worker --bytes $sizes --bodies 12 || return 1
    pull trainer --connect $address:$port --bytes $sizes --expect 12 || return 1
    grep -q '"event":"open","kind":"'$choice'"' $out/trainer.out && wait $worker
}

several_reads_are_under_way_at_once() {
    serve worker --bytes 1048576 --bodies 32 --slots-max 8 || return 1
    pull trainer --connect $address:$port --bytes 1048576 --expect 32 --slots 8 --own-slots 8 --outstanding 8 --parallel 8
}

one_slot_on_either_side_is_enough() {
    serve worker --bytes 500000 --bodies 20 --slots-max 1 || return 1
    pull trainer --connect $address:$port --bytes 500000 --expect 20 --own-slots 1 --outstanding 1 --parallel 4
}

lies_are_refused() {
    serve worker --bodies 6 --slots-max 1 || return 1
    peer audit trainer --choice $choice --connect $address:$port || return 1
    grep -q '"refused":58,"right":6,"wrong":\[\]' $out/trainer.out && grep -q 'body refused' $out/trainer.log
}

a_corrupt_body_is_refused_and_pulled_again() {
    serve worker --bodies 5 --corrupt 2 || return 1
    pull trainer --connect $address:$port --expect 5 --parallel 1 || return 1
    grep -q '"error":"Corrupt"' $out/trainer.out
}

a_wrong_token_is_refused() {
    serve worker --bodies 2 || return 1
    transport-peer pull --token $(echo $token | sed s/5f/60/) --connect $address:$port > $out/liar.out 2>&1 && return 1
    grep -q '"error":"Unauthorized"' $out/liar.out
}

a_killed_worker_is_left_for_another() {
    serve second --bytes 4194304 --bodies 4 || return 1
    other=$port
    serve first --bytes 4194304 --bodies 0 || return 1
    start_pull trainer --connect $address:$port --then $address:$other --bytes 4194304 --expect 4
    wait_for $out/trainer.out '"seq":3' > /dev/null || return 1
    kill -9 $worker
    wait_for $out/trainer.out '"error":"PeerLost"' 15 > /dev/null || return 1
    wait $trainer && grep -q '"right":4' $out/trainer.out
}

a_killed_trainer_is_noticed_and_the_next_is_served() {
    # memory for one session only: the second works if the first one's ring and registration are gone
    serve worker --bytes 4194304 --bodies 5 --sessions 2 --memory-bytes 18874368 || return 1
    start_pull first --connect $address:$port --bytes 4194304 --think-ms 200
    wait_for $out/first.out '"seq":1' > /dev/null || return 1
    kill -9 $trainer
    wait_for $out/worker.out '"error":"PeerLost"' 15 > /dev/null || return 1
    pull second --connect $address:$port --bytes 4194304 --expect 5 && wait $worker
}

a_stopped_worker_is_lost_within_the_deadline() {
    serve worker --bodies 0 --silence-ms 2000 || return 1
    start_pull trainer --connect $address:$port --silence-ms 2000 --think-ms 20
    wait_for $out/trainer.out '"seq":2' > /dev/null || return 1
    kill -STOP $worker
    wait_for $out/trainer.out '"error":"PeerLost"' 15 > /dev/null
    code=$?
    kill -CONT $worker
    return $code
}

auto_takes_rdma_where_shared_memory_is_not_allowed() {
    serve worker --bodies 3 --kinds rdma,tcp || return 1
    peer pull trainer --connect $address:$port --expect 3 || return 1
    grep -q '"event":"open","kind":"rdma"' $out/trainer.out && grep -q 'rxe0 port 1' $out/trainer.log
}

too_little_locked_memory_is_said_and_auto_goes_on_over_tcp() {
    chmod 666 /dev/infiniband/uverbs*
    # root may lock what it likes
    (ulimit -l 64; exec /util-linux/setpriv --reuid 65534 --regid 65534 --clear-groups transport-peer serve --token $token \
        --listen $address:0 --bodies 2 --kinds rdma,tcp > $out/worker.out 2> $out/worker.log) &
    port_of worker || return 1
    pull forced --connect $address:$port --expect 2 && return 1
    grep -q 'raise the locked-memory limit' $out/forced.out || return 1
    peer pull trainer --connect $address:$port --expect 2 || return 1
    grep -q '"event":"open","kind":"tcp"' $out/trainer.out && grep -q 'raise the locked-memory limit' $out/trainer.log
}

what_is_no_dmabuf_is_not_registered() {
    serve worker --checksum none || return 1
    peer device-memory trainer --choice $choice --connect $address:$port
}

case_of "the doctor sees the device" the_doctor_sees_the_device
case_of "bodies of 1, 4 and 16 MB arrive right" bodies_of_1_4_and_16_mb_arrive_right
case_of "several reads are under way at once" several_reads_are_under_way_at_once
case_of "one slot on either side is enough" one_slot_on_either_side_is_enough
case_of "descriptors that break a rule are refused" lies_are_refused
case_of "a corrupt body is refused and pulled again" a_corrupt_body_is_refused_and_pulled_again
case_of "a wrong token is refused" a_wrong_token_is_refused
case_of "a killed worker is left for another" a_killed_worker_is_left_for_another
case_of "a killed trainer is noticed and the next is served" a_killed_trainer_is_noticed_and_the_next_is_served
case_of "a stopped worker is lost within the deadline" a_stopped_worker_is_lost_within_the_deadline
case_of "auto takes rdma where shared memory is not allowed" auto_takes_rdma_where_shared_memory_is_not_allowed
case_of "too little locked memory is said, auto goes on over tcp" too_little_locked_memory_is_said_and_auto_goes_on_over_tcp
case_of "what is no dmabuf is not registered" what_is_no_dmabuf_is_not_registered
echo "guest: $failures failed"
[ $failures = 0 ]
