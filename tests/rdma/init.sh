#!/bin/busybox sh
# First process of the guest: a kernel with soft-RoCE, one device (rxe0) over a pair of virtual Ethernet ports.
/bin/busybox --install -s /bin
export PATH=/bin HOME=/tmp
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /tmp
chmod 1777 /tmp
while read -r module; do
    insmod "/modules/$module" || echo "guest: module $module was not loaded"
done < /modules/in-order
/iproute2/ip link set lo up
/iproute2/ip link add near mtu 4200 type veth peer name far mtu 4200
/iproute2/ip addr add 10.77.0.1/24 dev near
/iproute2/ip link set near up
/iproute2/ip link set far up
rdma link add rxe0 type rxe netdev near
[ -e /sys/class/infiniband/rxe0 ] || { echo "guest: no rxe0 came up"; echo "guest: exit 1"; poweroff -f; }
ulimit -l unlimited
sh /guest.sh
echo "guest: exit $?"
poweroff -f
