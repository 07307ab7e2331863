/* SPDX-License-Identifier: MIT */
/*
 * tls-keys.c - certificates and keys, from where the URI says, or from where libnbd looks for them.
 *
 * All files are read here, GnuTLS's own configuration too (a priority is resolved once): a
 * confined process connects again later, and has no files then.
 */
#include "blk/nbd/tls.h"

#include <pwd.h>
#include <stdio.h>
#include <unistd.h>

#define SYSTEM_PKI "/etc/pki/libnbd"

static int refused(struct dt_error *err, const char *what, int code)
{
    return dt_fail(err, -EKEYREJECTED, "TLS: %.160s: %s", what, gnutls_strerror(code));
}

/* ---- Certificates ---------------------------------------------------------------------------- */

/* @folder/@name; NULL where it cannot be read, and why in errno. */
static char *readable(const char *folder, const char *name)
{
    char *path = xasprintf("%s/%s", folder, name);

    if (access(path, R_OK) == 0)
        return path;
    free(path);
    return NULL;
}

/* Where libnbd looks when it is told nothing. */
static char *find_folder(void)
{
    static const char *const at_home[] = {".pki/libnbd", ".config/pki/libnbd"};
    const char *home = getenv("HOME");

    for (unsigned i = 0; geteuid() != 0 && home && i < ARRAY_SIZE(at_home); i++) {
        _cleanup_free_ char *folder = xasprintf("%s/%s", home, at_home[i]);
        _cleanup_free_ char *file = readable(folder, "ca-cert.pem");

        if (file)
            return TAKE_PTR(folder);
    }
    return xstrdup(SYSTEM_PKI);
}

static int load_ca(struct tls_keys *k, const char *folder, bool given, struct dt_error *err)
{
    _cleanup_free_ char *ca = readable(folder, "ca-cert.pem");
    int ret;

    if (!ca && given)
        return dt_fail(err, -errno, "TLS: %.160s/ca-cert.pem: %s", folder, strerror(errno));
    ret = ca ? gnutls_certificate_set_x509_trust_file(k->certificates, ca, GNUTLS_X509_FMT_PEM)
             : gnutls_certificate_set_x509_system_trust(k->certificates);
    if (ret < 0)
        return refused(err, ca ?: "the system's authorities", ret);
    if (ret == 0 && ca)
        return dt_fail(err, -EKEYREJECTED, "TLS: %.160s holds no certificate", ca);
    return 0;
}

static int load_crl(struct tls_keys *k, const char *folder, struct dt_error *err)
{
    _cleanup_free_ char *crl = readable(folder, "ca-crl.pem");
    int ret =
        crl ? gnutls_certificate_set_x509_crl_file(k->certificates, crl, GNUTLS_X509_FMT_PEM) : 0;

    return ret < 0 ? refused(err, crl, ret) : 0;
}

/* A client has a certificate where its server asks for one. */
static int load_own(struct tls_keys *k, const char *folder, struct dt_error *err)
{
    _cleanup_free_ char *cert = readable(folder, "client-cert.pem");
    _cleanup_free_ char *key = cert ? readable(folder, "client-key.pem") : NULL;
    int ret;

    if (!cert)
        return 0;
    if (!key)
        return dt_fail(err, -errno, "TLS: %.160s/client-key.pem: %s", folder, strerror(errno));
    ret = gnutls_certificate_set_x509_key_file(k->certificates, cert, key, GNUTLS_X509_FMT_PEM);
    return ret < 0 ? refused(err, cert, ret) : 0;
}

static int load_certificates(struct tls_keys *k, const struct remote_uri *uri, struct dt_error *err)
{
    _cleanup_free_ char *folder = uri->certificates ? xstrdup(uri->certificates) : find_folder();
    int ret = gnutls_certificate_allocate_credentials(&k->certificates);

    if (ret < 0)
        return refused(err, "certificates", ret);
    ret = load_ca(k, folder, uri->certificates, err);
    ret = ret ?: load_crl(k, folder, err);
    return ret ?: load_own(k, folder, err);
}

/* ---- Shared keys ------------------------------------------------------------------------------ */

/* The key of @user in a file of lines "user:hexadecimal key"; NULL where there is none. */
static char *find_key(FILE *f, const char *user)
{
    size_t size = 0, n = strlen(user);
    char *line = NULL, *key = NULL;

    while (!key && getline(&line, &size, f) >= 0) {
        line[strcspn(line, "\r\n")] = '\0';
        if (strncmp(line, user, n) == 0 && line[n] == ':')
            key = xstrdup(line + n + 1);
    }
    if (line)
        explicit_bzero(line, size);
    free(line);
    return key;
}

static int set_key(struct tls_keys *k, const char *user, char *key, struct dt_error *err)
{
    const gnutls_datum_t datum = {(unsigned char *)key, (unsigned)strlen(key)};
    int ret = gnutls_psk_allocate_client_credentials(&k->psk);

    ret = ret ?: gnutls_psk_set_client_credentials(k->psk, user, &datum, GNUTLS_PSK_KEY_HEX);
    explicit_bzero(key, strlen(key));
    return ret < 0 ? refused(err, "the key of tls-psk-file=", ret) : 0;
}

static int load_psk(struct tls_keys *k, const struct remote_uri *uri, struct dt_error *err)
{
    const struct passwd *self = uri->user ? NULL : getpwuid(geteuid());
    const char *user = uri->user ?: self ? self->pw_name : "root";
    _cleanup_free_ char *key = NULL;
    FILE *f = fopen(uri->psk_file, "re");

    if (!f)
        return dt_fail(err, -errno, "TLS: tls-psk-file=%.160s: %s", uri->psk_file, strerror(errno));
    key = find_key(f, user);
    fclose(f);
    if (!key)
        return dt_fail(
            err, -EKEYREJECTED,
            "TLS: tls-psk-file=%.160s has no key of user '%.64s' (nbds://USER@HOST/ names another)",
            uri->psk_file, user);
    return set_key(k, user, key, err);
}

/* ---- Both ------------------------------------------------------------------------------------- */

int tls_keys_load(struct tls_keys **keys, const struct remote_uri *uri, struct dt_error *err)
{
    struct tls_keys *k = xcalloc(1, sizeof(*k));
    const char *more = "+ECDHE-PSK:+DHE-PSK:+PSK";
    int ret = uri->psk_file
                  ? gnutls_priority_init2(&k->priority, more, NULL, GNUTLS_PRIORITY_INIT_DEF_APPEND)
                  : gnutls_priority_init2(&k->priority, NULL, NULL, 0);

    if (ret < 0)
        ret = refused(err, "its priorities", ret);
    k->verify = uri->tls_verify;
    if (uri->tls_hostname || uri->host)
        k->name = xstrdup(uri->tls_hostname ?: uri->host);
    ret = ret ?: uri->psk_file ? load_psk(k, uri, err) : load_certificates(k, uri, err);
    if (ret < 0)
        tls_keys_free(k);
    else
        *keys = k;
    return ret;
}

void tls_keys_free(struct tls_keys *k)
{
    if (!k)
        return;
    if (k->certificates)
        gnutls_certificate_free_credentials(k->certificates);
    if (k->psk)
        gnutls_psk_free_client_credentials(k->psk);
    if (k->priority)
        gnutls_priority_deinit(k->priority);
    free(k->name);
    free(k);
}
