#!/bin/sh
# Makes this folder's certificates: an authority, a server for localhost, another server, and a client. For tests only.
set -eu
cd "$(dirname "$0")"
openssl ecparam -name prime256v1 -genkey -noout -out ca.key
openssl req -x509 -new -key ca.key -subj "/CN=test authority" -days 36500 -addext "basicConstraints=critical,CA:TRUE" -out ca.pem
for name in server other client; do
    openssl ecparam -name prime256v1 -genkey -noout | openssl pkcs8 -topk8 -nocrypt -out $name.key
    openssl req -new -key $name.key -subj "/CN=$name" -out $name.csr
    printf 'subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n' >ext
    openssl x509 -req -in $name.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 36500 -extfile ext -out $name.pem
    rm $name.csr ext
done
rm -f ca.key ca.srl
