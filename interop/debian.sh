# Finds a program that the tests of `make interop` need, or takes it out of packages of Debian, into target/interop. An
# installed package would start a service. Source this file in the root of the repository.

# Prints the path of a program: its name, its path in the package, and the packages that contain it and its libraries.
debian_program() {
    local name=$1 path=$2 packages=("${@:3}") home=$PWD/target/interop/$1
    if command -v "$name"; then
        return
    fi
    if ! command -v apt-get >/dev/null; then
        echo "make interop needs $name in PATH: install $name with this system's package manager" >&2
        return 1
    fi
    if [[ ! -x $home/$name ]] && ! unpack; then
        # The lists of packages may be missing or outdated.
        ((EUID == 0)) && apt-get update -q >/dev/null
        unpack || { echo "cannot download ${packages[*]}: run apt-get update, then try again" >&2; return 1; }
    fi
    echo "$home/$name"
}

# Uses the variables of its caller.
unpack() {
    rm -rf "$home"
    mkdir -p "$home/packages"
    (cd "$home/packages" && apt-get download -q "${packages[@]}" >/dev/null 2>&1) || return 1
    local package
    for package in "$home"/packages/*.deb; do
        dpkg-deb --extract "$package" "$home/root"
    done
    # The libraries are in a directory that is named after the machine.
    local libraries=("$home"/root/usr/lib/*-linux-gnu*)
    printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$@"\n' "${libraries[0]}" "$home/root/$path" >"$home/$name"
    chmod 755 "$home/$name"
}
