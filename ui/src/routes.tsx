// Every page and its address.

import { Link, Route, Routes } from "react-router";

import { AboutPage, NotFoundPage } from "./pages/about/AboutPage";
import { LivePage } from "./pages/live/LivePage";

export function App() {
  return (
    <div className="app">
      <a href="#main" className="skip">
        Skip to the content
      </a>
      <Routes>
        <Route path="/" element={<LivePage />} />
        <Route path="/about" element={<AboutPage />} />
        <Route path="*" element={<NotFoundPage />} />
      </Routes>
      <footer className="footer">
        <span>Unofficial. Not affiliated with TikTok or Euler Stream.</span>
        <Link to="/about">About</Link>
      </footer>
    </div>
  );
}
