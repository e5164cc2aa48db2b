//! The attributes `#[transform]` and `#[dedup]` of `sluice-plugin`: a plain function stays what it is, and beside it
//! appear the exports of the component (on wasm32 only, because their names do not link elsewhere) and its manifest.

use proc_macro2::{Literal, TokenStream};
use quote::quote;
use syn::parse::Parser as _;
use syn::{Error, FnArg, ItemFn, Path, Result, Type};

/// Makes a transform of `fn(&Config, &mut Record) -> Result<Action>`.
///
/// `Config` is read from the stream's configuration with serde. With `#[transform(setup = start)]` it is what
/// `fn start(Config, &Schema) -> Result<State>` makes of that, and the function takes `&State`.
#[proc_macro_attribute]
pub fn transform(args: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    expand(Kind::Transform, args.into(), item.into()).unwrap_or_else(Error::into_compile_error).into()
}

/// Makes a dedup plugin of `fn(&Config, &mut Record, &mut Key) -> Result<()>`; `setup` as for a transform.
#[proc_macro_attribute]
pub fn dedup(args: proc_macro::TokenStream, item: proc_macro::TokenStream) -> proc_macro::TokenStream {
    expand(Kind::Dedup, args.into(), item.into()).unwrap_or_else(Error::into_compile_error).into()
}

#[derive(Clone, Copy)]
enum Kind {
    Transform,
    Dedup,
}

fn expand(kind: Kind, args: TokenStream, item: TokenStream) -> Result<TokenStream> {
    let function: ItemFn = syn::parse2(item)?;
    let state = state_type(kind, &function)?;
    let setup = setup_path(args)?;
    let setup = match setup {
        Some(path) => quote!(::sluice_plugin::__rt::with(__setup, #path)),
        None => quote!(::sluice_plugin::__rt::plain(__setup)),
    };
    let Parts { interface, apply, export, word } = parts(kind, &function.sig.ident, &state);
    let manifest = manifest(word);
    let manifest_len = manifest.len();
    let manifest = Literal::byte_string(manifest.as_bytes());
    Ok(quote! {
        #function

        const _: () = {
            #[doc(hidden)]
            pub struct SluicePlugin;

            impl ::sluice_plugin::__rt::#interface for SluicePlugin {
                type State = #state;

                fn setup(__setup: &::sluice_plugin::__rt::Setup<'_>) -> ::sluice_plugin::Result<#state> {
                    #setup
                }

                fn state() -> &'static ::std::sync::OnceLock<#state> {
                    static STATE: ::std::sync::OnceLock<#state> = ::std::sync::OnceLock::new();
                    &STATE
                }

                #apply
            }

            #[cfg(target_arch = "wasm32")]
            #[allow(unsafe_code, reason = "exports of the component, as generated from wit/")]
            const _: () = {
                #export

                #[used]
                #[unsafe(link_section = "sluice:manifest")]
                static MANIFEST: [u8; #manifest_len] = *#manifest;
            };
        };
    })
}

/// What differs between the kinds.
struct Parts {
    /// Trait that the plugin implements.
    interface: TokenStream,
    /// Its method that calls the function.
    apply: TokenStream,
    /// The component's exports.
    export: TokenStream,
    /// The kind in the manifest.
    word: &'static str,
}

fn parts(kind: Kind, name: &syn::Ident, state: &Type) -> Parts {
    // The names of parameters stand out of the way: the function may be called `key` or `record`.
    match kind {
        Kind::Transform => Parts {
            interface: quote!(Transform),
            apply: quote! {
                fn apply(
                    __state: &#state,
                    __record: &mut ::sluice_plugin::Record<'_>,
                ) -> ::sluice_plugin::Result<::sluice_plugin::Action> {
                    #name(__state, __record)
                }
            },
            export: quote! {
                ::sluice_plugin::__rt::transform_bindings::export_transform!(
                    SluicePlugin with_types_in ::sluice_plugin::__rt::transform_bindings
                );
            },
            word: "transform",
        },
        Kind::Dedup => Parts {
            interface: quote!(Dedup),
            apply: quote! {
                fn key(
                    __state: &#state,
                    __record: &mut ::sluice_plugin::Record<'_>,
                    __key: &mut ::sluice_plugin::Key,
                ) -> ::sluice_plugin::Result<()> {
                    #name(__state, __record, __key)
                }
            },
            export: quote! {
                ::sluice_plugin::__rt::dedup_bindings::export_dedup!(
                    SluicePlugin with_types_in ::sluice_plugin::__rt::dedup_bindings
                );
            },
            word: "dedup",
        },
    }
}

/// The manifest: what `sluice plugin inspect` shows without running the plugin.
fn manifest(kind: &str) -> String {
    // Cargo sets both for the crate being compiled; their characters need no escape in JSON.
    let name = std::env::var("CARGO_PKG_NAME").unwrap_or_default();
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    format!(r#"{{"kind":"{kind}","name":"{name}","version":"{version}"}}"#)
}

fn setup_path(args: TokenStream) -> Result<Option<Path>> {
    let mut setup = None;
    syn::meta::parser(|meta| {
        if !meta.path.is_ident("setup") {
            return Err(meta.error("the only argument is `setup = function`"));
        }
        setup = Some(meta.value()?.parse()?);
        Ok(())
    })
    .parse2(args)?;
    Ok(setup)
}

/// The type behind the first parameter's reference.
fn state_type(kind: Kind, function: &ItemFn) -> Result<Type> {
    let signature = &function.sig;
    let (count, form) = match kind {
        Kind::Transform => (2, "fn(&Config, &mut Record) -> Result<Action>"),
        Kind::Dedup => (3, "fn(&Config, &mut Record, &mut Key) -> Result<()>"),
    };
    let wrong = || Error::new_spanned(signature, format!("this attribute takes a function of the form {form}"));
    if signature.inputs.len() != count
        || signature.asyncness.is_some()
        || signature.generics.type_params().next().is_some()
    {
        return Err(wrong());
    }
    match signature.inputs.first() {
        Some(FnArg::Typed(argument)) => match &*argument.ty {
            Type::Reference(reference) if reference.mutability.is_none() => Ok((*reference.elem).clone()),
            _ => Err(wrong()),
        },
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_forms_are_refused_with_the_right_one() {
        let check = |kind, args: &str, item: &str, expected: &str| {
            let error = expand(kind, args.parse().unwrap(), item.parse().unwrap()).unwrap_err();
            assert!(error.to_string().contains(expected), "{item}: {error}");
        };
        check(Kind::Transform, "", "fn f(c: &C) -> R {}", "fn(&Config, &mut Record) -> Result<Action>");
        check(Kind::Transform, "", "fn f(c: C, r: &mut Record) -> R {}", "fn(&Config, &mut Record)");
        check(Kind::Dedup, "", "fn f(c: &C, r: &mut Record) -> R {}", "&mut Key");
        check(Kind::Dedup, "", "fn f<T>(c: &C, r: &mut Record, k: &mut Key) -> R {}", "&mut Key");
        check(Kind::Dedup, "start = f", "fn f(c: &C, r: &mut Record, k: &mut Key) -> R {}", "setup = function");
        check(Kind::Dedup, "", "struct S;", "expected `fn`");
    }

    #[test]
    fn both_forms_expand() {
        let expand = |kind, args: &str, item: &str| expand(kind, args.parse().unwrap(), item.parse().unwrap()).unwrap();
        expand(Kind::Transform, "", "pub fn f(c: &Config, r: &mut Record) -> Result<Action> { todo() }");
        let text = expand(Kind::Dedup, "setup = a::b", "fn f(c: &S, r: &mut Record, k: &mut Key) -> Result<()> {}");
        assert!(text.to_string().contains("with (__setup , a :: b)"));
    }
}
